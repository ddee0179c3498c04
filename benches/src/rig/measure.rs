//! One run, from two fresh processes to two ended ones.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    control::{Guest, Order},
    ferry::Side,
};
use crate::{
    gaps::{self, Window},
    host::{CpuTimes, Load},
    interrupt,
    plan::Step,
    results::Run,
};

/// How long the guest writes at its rate before it is moved: its working set is then in use.
const AT_WORK: Duration = Duration::from_millis(200);
/// How long boot and filling may take, for each GiB and besides.
const READY_BASE: Duration = Duration::from_secs(30);
const READY_PER_GIB: Duration = Duration::from_secs(10);
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);

/// What is the same for all runs.
#[derive(Clone, Copy, Debug)]
pub struct Rig<'a> {
    /// Where control sockets go.
    pub runtime: &'a Path,
    /// Whether guests are simulated.
    pub simulated: bool,
    /// What pre-copy may plan for.
    pub downtime_limit: Duration,
}

/// Moves a guest once. Into `run` goes what is known, also if not all of it could be measured.
///
/// # Errors
/// If the run did not come to its end; the reason belongs into its `error`.
pub fn measure(rig: &Rig<'_>, step: &Step, run: &mut Run) -> Result<()> {
    let before = Load::look();
    let mut sides = Sides::start(rig, step)?;
    sides.wait_until_at_work(step)?;
    run.overhead_bytes = sides.source.control.overhead_bytes()?;

    let began = sides.source.control.guest(u64::MAX)?;
    let (times, ticks) = (CpuTimes::now(), sides.ticks());
    let order = Order {
        address: &sides.address,
        strategy: step.arm.strategy.name(),
        downtime_limit: rig.downtime_limit,
        timeout: MIGRATION_TIMEOUT,
    };
    let report = sides.source.control.migrate(&order).context("migrate")?;
    let during = times.until(CpuTimes::now(), sides.ticks().saturating_sub(ticks));
    let load = before.max(during);
    (run.host_overloaded, run.others_cpu_percent) = (load.is_overload(), load.others_percent);
    run.record(report);
    if run.is_measured() {
        sides.ask_the_guest(&began, run)?;
    }
    Ok(())
}

/// Source and destination. Both processes end when this is dropped.
struct Sides {
    source: Side,
    destination: Side,
    address: String,
}

impl Sides {
    fn start(rig: &Rig<'_>, step: &Step) -> Result<Sides> {
        let (destination, address) =
            Side::receive("destination", rig.runtime).context("start the destination")?;
        let seed = u64::from(step.pass);
        let source = Side::run("source", &step.arm.workload, rig.simulated, seed, rig.runtime)?;
        Ok(Sides { source, destination, address })
    }

    /// CPU time of all that is ours.
    fn ticks(&self) -> u64 {
        let harness = crate::host::process_ticks(std::process::id());
        self.source.process.ticks() + self.destination.process.ticks() + harness
    }

    fn wait_until_at_work(&mut self, step: &Step) -> Result<()> {
        let gibibytes = (step.arm.workload.memory_bytes >> 30) as u32;
        let patience = READY_BASE + READY_PER_GIB * gibibytes;
        let deadline = Instant::now() + patience;
        loop {
            interrupt::check()?;
            self.source.process.check().context("the source")?;
            // Until the control socket is there, nobody answers.
            match self.source.control.guest(u64::MAX) {
                Ok(guest) if guest.ready || !guest.available => break,
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

    /// What the guest saw of the move, and what it finds in its memory after it.
    fn ask_the_guest(&mut self, began: &Guest, run: &mut Run) -> Result<()> {
        let destination = &self.destination.control;
        let guest = destination.guest(began.tsc_now).context("ask the guest at the destination")?;
        if guest.available {
            let last_step_tsc = self.last_step_at_the_source();
            let window = Window { begin_tsc: began.tsc_now, end_tsc: guest.tsc_now, last_step_tsc };
            run.record_guest(gaps::seen(&guest.gaps, window));
        }
        let check = destination.check().context("have the guest check its memory")?;
        run.record_check(check.errors);
        if check.errors > 0 {
            let first = check.named_errors.first().map(ToString::to_string).unwrap_or_default();
            run.error =
                Some(format!("the guest found {} wrong pages after the move, such as {first}", check.errors));
        }
        destination.stop().context("stop the guest at the destination")
    }

    /// The source's memory stands still since the pause.
    fn last_step_at_the_source(&self) -> Option<u64> {
        self.source.control.guest(u64::MAX).ok().filter(|guest| guest.available)?.last_step_tsc
    }
}
