//! Builds `pulse`, which is a workspace of its own: bare metal needs its own link script, profile and lock file.

use std::env;
use std::path::PathBuf;
use std::process::Command;

#[path = "linux/src/fresh_cargo.rs"]
mod fresh_cargo;

fn main() {
    for path in [
        "build.rs",
        "linux/src/fresh_cargo.rs",
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
    fresh_cargo::inherit_no_build(&mut cargo);
    let status = cargo.status().expect("run cargo for guest-images/pulse");
    assert!(status.success(), "guest-images/pulse does not build: {status}");
    println!("cargo::rustc-env=PULSE={}", target.join("release/pulse").display());
}
