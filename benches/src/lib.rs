//! Ferry's harness: what a migration costs the people who use the guest.
//!
//! ```text
//! command ─► plan ─► rig: two processes, one migration ─► results.json ─► summary ─► table, words, report
//! ```
//! [`plan`] says what is measured and in which order; [`rig`] does it, once per [`results::Run`];
//! [`summary`] reduces runs to medians, and [`table`], [`verdict`] and [`report`] only show those.
//! What is shown can always be rendered again from the results file alone.

pub mod bench;
pub mod command;
pub mod compare;
pub mod gaps;
pub mod handover;
pub mod host;
pub mod interrupt;
pub mod network;
pub mod peer;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod report;
pub mod results;
pub mod resume;
pub mod rig;
pub mod session;
pub mod site;
pub mod statistics;
pub mod summary;
pub mod sweep;
pub mod table;
pub mod units;
pub mod verdict;

use std::{env, process::ExitCode};

use clap::Parser;

use command::{Cli, Command};

/// The whole program. Its hidden roles come first: it starts the processes it measures by running itself.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let Some(code) = rig::role(arguments.get(1..).unwrap_or_default()) {
        return code;
    }
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Compare(options)) => compare::run(&options),
        Some(Command::Sweep(options)) => sweep::run(&options),
        Some(Command::Report(options)) => report::render_again(&options),
        None => compare::run(&cli.compare),
    };
    done.unwrap_or_else(|error| {
        eprintln!("ferry-bench: {error:#}");
        ExitCode::FAILURE
    })
}
