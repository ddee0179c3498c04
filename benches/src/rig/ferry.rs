//! The two sides of a migration: `ferry run` and `ferry receive`, each a process.

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use super::{FERRY, child::Process, control::Control};
use crate::plan::Workload;

const PATIENCE: Duration = Duration::from_secs(30);

/// Plays `ferry` itself.
pub fn play(arguments: &[String]) -> ExitCode {
    let arguments = std::iter::once("ferry").chain(arguments.iter().map(String::as_str));
    migrator::cli::run_from(arguments.map(OsString::from))
}

/// A VM's process, and its control socket.
pub struct Side {
    /// Its process.
    pub process: Process,
    /// Its control socket.
    pub control: Control,
}

impl Side {
    /// Runs a guest.
    ///
    /// # Errors
    /// If its process cannot be started. Whether the guest boots shows later.
    pub fn run(name: &str, workload: &Workload, simulated: bool, seed: u64, runtime: &Path) -> Result<Side> {
        let image = if simulated { "sim" } else { "pulse" };
        let mut arguments = words(["run", image, "--name", name, "--no-console"]);
        arguments.extend(words(["--memory", &workload.memory_bytes.to_string()]));
        arguments.extend(words(["--vcpus", &workload.vcpus.to_string()]));
        arguments.extend(guest_words(workload, simulated, seed));
        let process = Process::start(FERRY, &arguments, runtime)?;
        Ok(Side { process, control: Control::new(runtime, name) })
    }

    /// Waits for a guest to come; also says where.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn receive(name: &str, runtime: &Path) -> Result<(Side, String)> {
        let arguments = words(["receive", "tcp://127.0.0.1:0", "--name", name, "--once", "--no-console"]);
        let mut process = Process::start(FERRY, &arguments, runtime)?;
        let line = process.next_line(PATIENCE)?;
        let address =
            line.strip_prefix("listening on ").context("the destination does not say where it listens")?;
        let address = address.trim().to_owned();
        Ok((Side { process, control: Control::new(runtime, name) }, address))
    }
}

/// What the guest is told to do.
fn guest_words(workload: &Workload, simulated: bool, seed: u64) -> Vec<String> {
    let working_set = format!("working-set={}", workload.working_set_bytes);
    let (rate, seed) = (workload.dirty_rate_pages_per_second, format!("seed={seed}"));
    match simulated {
        true => vec![format!("rate={rate}"), working_set, seed],
        false => vec![
            format!("fill={}", workload.fill.name()),
            working_set,
            format!("dirty-rate={rate}"),
            "pattern=random".to_owned(),
            // Spinning is the honest measure of a gap: a sleeping guest does not see one.
            "idle=spin".to_owned(),
            seed,
        ],
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}
