//! What makes one run: processes, their control sockets, and one migration between two of them.
//!
//! Each VM is a process, and so is each side of the limit probe. All of them are this program, run by itself
//! under a hidden first argument, so that nothing else needs to be built or found.

mod child;
mod client;
mod control;
mod ferry;
mod folder;
mod http;
mod left_over;
mod limit;
mod measure;

pub use child::{Process, die_with_parent};
pub use client::Client;
pub use ferry::pulse_words;
pub use folder::Folder;
pub use limit::measure as measure_limit;
pub use measure::{AT_WORK, MIGRATION_TIMEOUT, Rig, measure, ready_patience};

use std::process::ExitCode;

/// Run as `ferry`.
const FERRY: &str = "__ferry";
/// Run as the receiving side of the limit probe.
const LIMIT_RECEIVE: &str = "__limit-receive";
/// Run as its sending side.
const LIMIT_SEND: &str = "__limit-send";

/// If this process was started for a role, plays it; the answer is its exit code.
pub fn role(arguments: &[String]) -> Option<ExitCode> {
    let (role, rest) = arguments.split_first()?;
    match role.as_str() {
        FERRY => Some(ferry::play(rest)),
        LIMIT_RECEIVE => Some(limit::play(limit::receive(rest))),
        LIMIT_SEND => Some(limit::play(limit::send(rest))),
        _ => None,
    }
}
