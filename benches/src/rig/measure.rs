//! One run, from two fresh processes to two ended ones.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    client::Client,
    control::{Guest, Order},
    ferry::Vm,
};
use crate::{
    gaps::{self, GapHistogram, Window},
    handover::Handover,
    host::{CpuTimes, Load, WarmMemory},
    interrupt,
    network::Network,
    plan::{Step, Workload},
    probe::{MigrationWindow, now_ns},
    results::{Request, Run},
};

/// How long the guest writes at its rate before it is moved: its working set is then in use.
pub const AT_WORK: Duration = Duration::from_millis(200);
/// How long boot and filling may take, for each GiB and besides.
const READY_BASE: Duration = Duration::from_secs(30);
const READY_PER_GIB: Duration = Duration::from_secs(10);
/// How long a migration may take until the handover.
pub const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);
/// The engine gives up first.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(150);

/// What is the same for all runs.
#[derive(Clone, Copy, Debug)]
pub struct Rig<'a> {
    /// Where control sockets go.
    pub runtime: &'a Path,
    /// Whether guests are simulated.
    pub simulated: bool,
    /// What pre-copy may plan for.
    pub downtime_limit: Duration,
    /// The network that source, destination and client are in; without one they are processes of the host.
    pub network: Option<&'a Network>,
    /// A client asks the guest while it moves, over that network.
    pub has_client: bool,
}

impl<'a> Rig<'a> {
    /// The network that guest and client share, if there is a client.
    pub fn client_network(&self) -> Option<&'a Network> {
        self.network.filter(|_| self.has_client)
    }
}

/// How long a guest may boot and fill its memory.
pub fn ready_patience(workload: &Workload) -> Duration {
    READY_BASE + READY_PER_GIB * (workload.memory_bytes >> 30) as u32
}

/// Moves a guest once, in memory that is held warm and is let go of as it is needed. Into `run` goes what is
/// known, also if not all of it could be measured. Returns the client's requests, if there was one.
///
/// # Errors
/// If the run did not come to its end; the reason belongs into its `error`.
pub fn measure(rig: &Rig<'_>, step: &Step, memory: &mut WarmMemory, run: &mut Run) -> Result<Vec<Request>> {
    let before = Load::look();
    memory.release_source();
    let mut sides = Sides::start(rig, step)?;
    sides.wait_until_at_work(step)?;
    memory.take_back_rest()?;
    let client = rig.client_network().map(Client::start).transpose().context("start the client")?;
    run.overhead_bytes = sides.source.control.overhead_bytes()?;

    let began = sides.source.control.guest()?;
    let (times, ticks) = (CpuTimes::now(), sides.ticks());
    let order = Order {
        address: &sides.address,
        strategy: step.arm.strategy.name(),
        downtime_limit: rig.downtime_limit,
        timeout: MIGRATION_TIMEOUT,
    };
    memory.release_destination();
    let began_ns = now_ns();
    sides.source.control.begin_migration(&order).context("migrate")?;
    let handover = sides.await_handover();
    let report = sides.source.control.end_of_migration().context("migrate")?;
    // The report comes later still, when all memory has been compared.
    let end_ns = (began_ns + report.total_us * 1_000).max(handover.seen_ns);
    let window = MigrationWindow { begin_ns: began_ns, switchover_end_ns: handover.seen_ns, end_ns };
    let during = times.until(CpuTimes::now(), sides.ticks().saturating_sub(ticks));
    let load = before.max(during);
    run.record_load(load);
    run.record(report);
    // Before the guest checks its memory, which takes it a while.
    let requests = client.map(|client| client.finish(&window, run)).unwrap_or_default();
    if run.is_measured() {
        sides.ask_the_guest(&began, handover, run)?;
    }
    Ok(requests)
}

/// Source and destination. Both processes end when this is dropped.
struct Sides {
    source: Vm,
    destination: Vm,
    address: String,
}

impl Sides {
    fn start(rig: &Rig<'_>, step: &Step) -> Result<Sides> {
        let (destination, address) = Vm::receive("destination", rig).context("start the destination")?;
        let source = Vm::run("source", &step.arm.workload, u64::from(step.pass), rig)?;
        Ok(Sides { source, destination, address })
    }

    /// CPU time of all that is ours.
    fn ticks(&self) -> u64 {
        let harness = crate::host::process_ticks(std::process::id());
        self.source.process.ticks() + self.destination.process.ticks() + harness
    }

    fn wait_until_at_work(&mut self, step: &Step) -> Result<()> {
        let patience = ready_patience(&step.arm.workload);
        let deadline = Instant::now() + patience;
        loop {
            interrupt::check()?;
            self.source.process.check().context("the source")?;
            // Until the control socket is there, nobody answers.
            match self.source.control.guest() {
                Ok(guest) if guest.ready => break,
                // It boots, or fills its memory.
                Ok(_) => {}
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
            if Instant::now() > deadline {
                bail!("the guest was not ready after {} s", patience.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(AT_WORK);
        Ok(())
    }

    /// Waits until the guest runs at the destination, and reads what will soon be gone: the gaps in the memory of the
    /// source, whose process ends once it is asked for the report, and the first ones at the destination. Nothing is
    /// asked before, so that nothing of ours runs during the downtime.
    fn await_handover(&mut self) -> Handover {
        let word = self.destination.process.next_line(HANDOVER_PATIENCE);
        let seen_ns = now_ns();
        if word.is_err() {
            // The migration failed, and its report says why.
            return Handover { seen_ns, ..Handover::default() };
        }
        let gaps = |vm: &Vm| {
            let guest = vm.control.guest().ok().filter(|guest| guest.available)?;
            Some(guest.gaps)
        };
        Handover::read(seen_ns, gaps(&self.source), || gaps(&self.destination))
    }

    /// What the guest saw of the move, and what it finds in its memory after it.
    fn ask_the_guest(&mut self, began: &Guest, handover: Handover, run: &mut Run) -> Result<()> {
        let destination = &self.destination.control;
        let guest = destination.guest().context("ask the guest at the destination")?;
        let Handover { at_source, first: mut gaps, .. } = handover;
        gaps.extend(guest.gaps);
        let parts = run.moved.downtime_parts_us.unwrap_or_default();
        let stood_still_us = parts.total_us() - parts.pause - parts.start;
        let window = Window { begin_tsc: began.tsc_now, end_tsc: guest.tsc_now, at_source, stood_still_us };
        run.record_guest(gaps::seen(&gaps, &window));
        run.guest_gaps = GapHistogram::between(&began.gap_histogram, &guest.gap_histogram, guest.tsc_khz);
        let check = destination.check().context("have the guest check its memory")?;
        run.record_check(check.errors);
        if check.errors > 0 {
            let first = check.named_errors.first().map(String::as_str).unwrap_or_default();
            run.error = Some(format!(
                "the guest found {} wrong pages after the move, such as: {first}",
                check.errors
            ));
        }
        destination.stop().context("stop the guest at the destination")
    }
}
