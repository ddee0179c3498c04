//! Builds `pulse`, which is a workspace of its own: bare metal needs its own link script, profile and lock file.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Set by the cargo that runs this, and wrong for another target or another workspace.
const NOT_INHERITED: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "LLVM_PROFILE_FILE",
    "CARGO_MAKEFLAGS",
];

fn main() {
    for path in [
        "build.rs",
        "pulse/Cargo.toml",
        "pulse/Cargo.lock",
        "pulse/build.rs",
        "pulse/pulse.ld",
        "pulse/src",
        "service/Cargo.toml",
        "service/src",
        "telemetry/Cargo.toml",
        "telemetry/src",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pulse");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    // Locked: it has dependencies of its own (virtio-drivers, smoltcp), and a lock file of its own.
    cargo
        .args(["build", "--release", "--locked", "--manifest-path", "pulse/Cargo.toml"])
        .arg("--target-dir")
        .arg(&target);
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("run cargo for guest-images/pulse");
    assert!(status.success(), "guest-images/pulse does not build: {status}");
    println!("cargo::rustc-env=PULSE={}", target.join("release/pulse").display());
}
