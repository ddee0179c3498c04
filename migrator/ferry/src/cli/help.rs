//! Shell completions and man pages, from the same description as the arguments.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, output::print};

/// Print completions for a shell
///
/// For bash: ferry completions bash > /etc/bash_completion.d/ferry
#[derive(Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "ferry", &mut script);
        print(String::from_utf8_lossy(&script).trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Write man pages into a folder
#[derive(Args)]
pub struct Man {
    /// The folder
    folder: PathBuf,
}

impl Man {
    /// Writes them.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let wrote = || format!("write man pages into {}", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(wrote)?;
        clap_mangen::generate_to(Arguments::command(), &self.folder).with_context(wrote)?;
        Ok(ExitCode::SUCCESS)
    }
}
