//! `ferry console`

use std::process::ExitCode;

use clap::Args;

use super::{
    output::tell,
    raw_terminal,
    terminal::{self, Left},
};
use crate::{
    api::client::{Client, PROMPT},
    daemon::{Registry, Status},
};

/// Show a VM's console on this terminal
///
/// Ctrl-] detaches; the guest runs on.
#[derive(Args)]
pub struct Console {
    /// The VM's name
    name: String,
}

impl Console {
    /// Until the user leaves, or the console ends.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        raw_terminal::never_stop_for_it();
        let registry = Registry::open()?;
        let client = Client::new(&registry, &self.name);
        // A name that is not there is told as such.
        let _: Status =
            super::block_on(async { Ok(client.call(hyper::Method::GET, "/v1/vm", Some(PROMPT)).await?) })?;
        tell!("The console of {}. Ctrl-] detaches.", self.name);
        match terminal::attach(&registry.console(&self.name))? {
            Left::ByUser => tell!("\nDetached; {} runs on.", self.name),
            Left::ByGuest => tell!("\nThe console of {} is closed.", self.name),
        }
        Ok(ExitCode::SUCCESS)
    }
}
