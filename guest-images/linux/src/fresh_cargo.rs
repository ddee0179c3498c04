//! A cargo run by a cargo, for a build of its own. Shared with `guest-images/build.rs`, which can use no crate.

use std::process::Command;

/// Set by the cargo or the test runner that runs this, and wrong for another target or another workspace.
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

/// Takes out of `cargo`'s environment what is meant for this build and not for that one.
pub fn inherit_no_build(cargo: &mut Command) {
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
}
