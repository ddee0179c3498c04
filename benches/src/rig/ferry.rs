//! The two VMs of a migration, the one that leaves and the one that comes: `ferry run` and `ferry receive`, each a
//! process.

use std::{ffi::OsString, net::Ipv4Addr, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use super::{FERRY, Rig, child::Process, control::Control};
use crate::{
    network::{DESTINATION_ADDRESS, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, Side, TAP},
    plan::Workload,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Plays `ferry` itself.
pub fn play(arguments: &[String]) -> ExitCode {
    let arguments = std::iter::once("ferry").chain(arguments.iter().map(String::as_str));
    ferry::cli::run_from(arguments.map(OsString::from))
}

/// A VM's process, and its control socket.
pub struct Vm {
    /// Its process.
    pub process: Process,
    /// Its control socket.
    pub control: Control,
}

impl Vm {
    /// Runs a guest.
    ///
    /// # Errors
    /// If its process cannot be started. Whether the guest boots shows later.
    pub fn run(name: &str, workload: &Workload, seed: u64, rig: &Rig<'_>) -> Result<Vm> {
        let Rig { runtime, simulated, network, .. } = *rig;
        let image = if simulated { "sim" } else { "pulse" };
        let mut arguments = words(["run", image, "--name", name, "--no-console"]);
        arguments.extend(words(["--memory", &workload.memory_bytes.to_string()]));
        arguments.extend(words(["--vcpus", &workload.vcpus.to_string()]));
        arguments.extend(if simulated { sim_words(workload, seed) } else { pulse_words(workload, seed) });
        if rig.client_network().is_some() {
            let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
            arguments.push(format!("net={GUEST_ADDRESS}/{GUEST_PREFIX}"));
            arguments.extend(words(["--net", &format!("tap={TAP},mac={mac}")]));
        }
        let process =
            Process::start(FERRY, &arguments, runtime, network.map(|network| (network, Side::Source)))?;
        Ok(Vm { process, control: Control::new(runtime, name) })
    }

    /// Waits for a guest to come; also says where.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn receive(name: &str, rig: &Rig<'_>) -> Result<(Vm, String)> {
        let Rig { runtime, network, .. } = *rig;
        let at = network.map_or(Ipv4Addr::LOCALHOST, |_| DESTINATION_ADDRESS);
        let mut arguments = words([
            "receive",
            &format!("tcp://{at}:0"),
            "--name",
            name,
            "--once",
            "--no-console",
            "--simulated",
        ]);
        if rig.client_network().is_some() {
            arguments.extend(words(["--net", &format!("tap={TAP}")]));
        }
        let place = network.map(|network| (network, Side::Destination));
        let mut process = Process::start(FERRY, &arguments, runtime, place)?;
        let line = process.next_line(PATIENCE)?;
        let address =
            line.strip_prefix("listening on ").context("the destination does not say where it listens")?;
        let address = address.trim().to_owned();
        Ok((Vm { process, control: Control::new(runtime, name) }, address))
    }
}

/// What the built-in guest is told to do.
pub fn pulse_words(workload: &Workload, seed: u64) -> Vec<String> {
    vec![
        format!("fill={}", workload.fill.name()),
        format!("working-set={}", workload.working_set_bytes),
        format!("dirty-rate={}", workload.dirty_rate_pages_per_second),
        "pattern=random".to_owned(),
        format!("idle={}", workload.idle.name()),
        format!("seed={seed}"),
    ]
}

/// What the simulated guest is told to do.
fn sim_words(workload: &Workload, seed: u64) -> Vec<String> {
    let rate = format!("rate={}", workload.dirty_rate_pages_per_second);
    vec![rate, format!("working-set={}", workload.working_set_bytes), format!("seed={seed}")]
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}
