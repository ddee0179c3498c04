//! The runs themselves: host memory warmed, the limit probed, each step made once.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    command::Compare,
    host::{Machines, WarmMemory},
    interrupt::{self, Interrupted},
    network::Bandwidth,
    peer::{self, Peer, Setting},
    plan::{Step, Workload},
    progress::Progress,
    results::{Engine, Request, Run, RunOutcome},
    rig::{self, Folder, Rig},
    site::Site,
    units,
};

/// What is needed for all runs.
pub struct Bench<'a> {
    options: &'a Compare,
    machines: &'a Machines,
    site: &'a Site,
    folder: Folder,
    peer: &'a Peer,
    memory: WarmMemory,
    /// What plain TCP moved a second, by pass, size of memory and link.
    limits: HashMap<(u32, u64, Option<Bandwidth>), Option<u64>>,
}

impl<'a> Bench<'a> {
    /// With control sockets in `folder`, and `peer` for the arms that are another engine's.
    pub fn new(
        options: &'a Compare,
        machines: &'a Machines,
        site: &'a Site,
        folder: Folder,
        peer: &'a Peer,
    ) -> Bench<'a> {
        let (memory, limits) = (WarmMemory::default(), HashMap::new());
        Bench { options, machines, site, folder, peer, memory, limits }
    }

    /// All steps, in order; each run is given to `keep` when it is made, with the requests of its client. Fails only if
    /// the user interrupts.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn measure(mut self, steps: &[Step], mut keep: impl FnMut(Run, Vec<Request>)) -> Result<()> {
        let mut progress = Progress::begin(steps.len());
        for step in steps {
            interrupt::check()?;
            let (run, requests) = self.step(step)?;
            let workload = &run.workload;
            eprintln!(
                "{} {:<13} {}, {} pages/s{}, run {}: {}",
                progress.step(),
                step.arm.name(),
                units::bytes(workload.memory_bytes),
                units::count(workload.dirty_rate_pages_per_second),
                workload.link.map(|link| format!(", {link}")).unwrap_or_default(),
                run.pass,
                outcome(&run),
            );
            keep(run, requests);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(Run, Vec<Request>)> {
        let mut run = Run::planned(step.arm.strategy, step.arm.workload, step.pass);
        run.simulated = self.machines.simulated.is_some();
        if step.arm.peer.is_none_or(Setting::takes_limit) {
            run.downtime_limit_us = Some(self.options.downtime_limit.as_micros() as u64);
        }
        if let (Some(setting), Some(qemu)) = (step.arm.peer, &self.peer.qemu) {
            run.engine = Engine::qemu(qemu.version(), setting.name());
        }
        if let Some(reason) = &self.machines.no_missing_pages
            && step.arm.peer.is_none()
            && step.arm.strategy.needs().missing_pages
        {
            run.outcome = RunOutcome::Skipped;
            run.error = Some(reason.clone());
            return Ok((run, Vec::new()));
        }
        match self.limit(step).and_then(|limit| self.migrate(step, limit, &mut run)) {
            Ok(requests) => return Ok((run, requests)),
            // Whatever failed meanwhile failed because of it.
            Err(_) if interrupt::is_requested() => return Err(Interrupted.into()),
            Err(error) => {
                if run.is_measured() {
                    run.outcome = RunOutcome::Failed;
                }
                run.error = Some(format!("{error:#}"));
            }
        }
        Ok((run, Vec::new()))
    }

    fn migrate(&mut self, step: &Step, limit: Option<u64>, run: &mut Run) -> Result<Vec<Request>> {
        run.limit_bytes_per_second = limit;
        self.warm_up(step)?;
        let network = self.site.network(step.arm.workload.link)?;
        let rig = Rig {
            runtime: self.folder.path(),
            simulated: run.simulated,
            downtime_limit: self.options.downtime_limit,
            network: network.as_ref(),
            has_client: self.site.has_client(),
        };
        match step.arm.peer {
            None => rig::measure(&rig, step, &mut self.memory, run),
            Some(setting) => {
                let qemu = self.peer.qemu.as_ref().context("there is no QEMU")?;
                peer::measure(&rig, qemu, setting, step, &mut self.memory, run)
            }
        }
    }

    /// The limit, probed once in each pass for each size of memory and link. That it is not known is no reason not to measure.
    fn limit(&mut self, step: &Step) -> Result<Option<u64>> {
        let Workload { memory_bytes: memory, link, .. } = step.arm.workload;
        if let Some(limit) = self.limits.get(&(step.pass, memory, link)) {
            return Ok(*limit);
        }
        self.warm_up(step)?;
        self.memory.release_source();
        self.memory.release_destination();
        let limit = self
            .site
            .network(link)
            .and_then(|network| rig::measure_limit(memory, self.folder.path(), network.as_ref()))
            .inspect_err(|error| eprintln!("the limit is not known in this pass: {error:#}"))
            .ok();
        self.limits.insert((step.pass, memory, link), limit);
        Ok(limit)
    }

    /// Takes long only once, or when the guests become larger.
    fn warm_up(&mut self, step: &Step) -> Result<()> {
        let (begin, terminal) = (Instant::now(), io::stderr().is_terminal());
        let mut said = false;
        self.memory.hold(step.arm.workload.memory_bytes, |held, all| {
            if begin.elapsed() > Duration::from_millis(500) && (terminal || !said) {
                let end = if terminal { "" } else { "\n" };
                eprint!("\rwarming up host memory: {} of {}   {end}", units::bytes(held), units::bytes(all));
                said = true;
            }
        })?;
        if said && terminal {
            eprintln!();
        }
        Ok(())
    }
}

fn outcome(run: &Run) -> String {
    let verified = match run.verified {
        Some(true) => "verified",
        Some(false) => "MEMORY WRONG",
        None => "not verified",
    };
    let load = if run.host_overloaded { ", BUSY HOST" } else { "" };
    match (run.outcome, run.downtime_guest_us.or(run.moved.downtime_engine_us), run.total_us) {
        (RunOutcome::Completed, Some(downtime), Some(total)) => {
            format!("down {}, total {}, {verified}{load}", units::micros(downtime), units::micros(total))
        }
        (RunOutcome::Skipped, ..) => "not run".to_owned(),
        _ => format!("FAILED: {}", run.error.as_deref().unwrap_or("no reason known")),
    }
}
