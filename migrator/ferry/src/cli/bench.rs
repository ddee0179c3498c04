//! `ferry bench`

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, bail};
use clap::Args;

/// Measure what a migration costs: runs ferry-bench
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Bench {
    /// Arguments of ferry-bench; try --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

impl Bench {
    /// Becomes `ferry-bench`; returns only if it cannot.
    pub fn execute(self) -> anyhow::Result<std::process::ExitCode> {
        let here = std::env::current_exe().context("find this program")?;
        let program = here.with_file_name("ferry-bench");
        if !program.exists() {
            bail!("{} does not exist: build it with `cargo build --release -p benches`", program.display());
        }
        let error = Command::new(&program).args(self.arguments).exec();
        Err(error).with_context(|| format!("run {}", program.display()))
    }
}
