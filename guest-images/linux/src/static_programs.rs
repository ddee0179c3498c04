//! Programs of this workspace without libraries, to go into an initial RAM disk.
//!
//! Cargo is run for them with a target folder of its own, so that flags that differ do not rebuild anything else.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use crate::fresh_cargo::inherit_no_build;

/// The one target whose C library can be linked into a program by flag.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No cargo, or no source.
    #[error("cannot run {program} to build {}", .packages.join(" and "))]
    Run {
        /// What was run.
        program: String,
        /// What was to be built.
        packages: Vec<String>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{} does not build as a static program ({status}): {words}", .packages.join(" and "))]
    Build {
        /// What was to be built.
        packages: Vec<String>,
        /// How cargo ended.
        status: ExitStatus,
        /// What it said last.
        words: String,
    },
}

/// Builds programs, each as (package, program), and returns the folder they are in.
///
/// # Errors
/// [`BuildError`], with cargo's last words.
pub fn build(programs: &[(&str, &str)]) -> Result<PathBuf, BuildError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = target.join("static");
    let program = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let packages: Vec<String> = programs.iter().map(|(package, _)| (*package).to_owned()).collect();
    let mut cargo = Command::new(&program);
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"])
        .arg(&target);
    cargo.arg("--manifest-path").arg(workspace.join("Cargo.toml"));
    for (package, bin) in programs {
        cargo.args(["--package", package, "--bin", bin]);
    }
    inherit_no_build(&mut cargo);
    // What is carried into each machine is kept small.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "none");
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let output = match cargo.output() {
        Ok(output) => output,
        Err(source) => return Err(BuildError::Run { program, packages, source }),
    };
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().rev().take(20).collect::<Vec<_>>();
        let words = words.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(BuildError::Build { packages, status: output.status, words });
    }
    Ok(target.join(TARGET).join("release"))
}
