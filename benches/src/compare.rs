//! `ferry-bench compare`: all arms in turn, each request of the clients kept.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    command::Compare,
    session::{self, Keep},
};

/// Measures, and shows what came out.
///
/// # Errors
/// If nothing can be measured at all. A run that fails is a result.
pub fn run(options: &Compare) -> Result<ExitCode> {
    session::run(options, Keep::Requests)
}
