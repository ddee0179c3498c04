//! What commands print. A standard output that is full is an error, not a panic; one that nobody reads is neither.
//!
//! What a VM's process has to say goes to standard error, which may be a log on a disk that is full: nothing is lost by
//! that but the words, least of all a guest.

use std::{
    fmt::{Arguments, Display},
    io::{self, ErrorKind, Write},
};

use anyhow::Context;
use serde::Serialize;

/// Prints a line.
///
/// # Errors
/// If it cannot be written, to a full disk say; not if nobody reads any more.
pub fn print(line: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// As [`print()`].
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// Says a line on standard error, as far as that takes it.
pub fn to_stderr(line: Arguments<'_>) {
    // Whoever cannot hear even this cannot be told that they cannot.
    writeln!(io::stderr().lock(), "{line}").ok();
}

/// Says something to the user, on standard error.
macro_rules! tell {
    ($($words:tt)*) => { $crate::cli::output::to_stderr(format_args!($($words)*)) };
}
pub(super) use tell;
