//! `ferry-bench compare`: warm up, run all arms in turn, show.

use std::{
    collections::HashMap,
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    command::Compare,
    host::{HostFacts, Machines, WarmMemory},
    interrupt::{self, Interrupted},
    plan::Step,
    report,
    results::{Results, ResultsFile, Run, RunOutcome, TimelineFile},
    rig::{self, Folder, Rig},
    site::Site,
    summary::Summary,
    table, units, verdict,
};

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Measures, and shows what came out.
///
/// # Errors
/// If nothing can be measured at all. A run that fails is a result.
pub fn run(options: &Compare) -> Result<ExitCode> {
    // While there is one thread only.
    let site = Site::prepare(options)?;
    interrupt::watch()?;
    let machines = Machines::probe(options.simulated);
    let site = if machines.simulated.is_some() { site.without_client() } else { site };
    if let Some(reason) = &machines.simulated {
        println!(
            "SIMULATED GUESTS ({reason}): engine, links and bytes are real, the machine is not. The figures say how the \
             strategies compare, not how fast a VM moves; run on a host with KVM for that."
        );
    }
    let mut results = Results::new(HostFacts::gather(&machines));
    // A report that cannot be written is known before anything is measured; the table is worth it all the same.
    let file = ResultsFile::create(&options.results_path(), &results).map_err(|error| complain(&error)).ok();
    let keep = |results: &Results| {
        if let Some(file) = &file {
            file.write(results).map_err(|error| complain(&error)).ok();
        }
    };

    let steps = options.choices().steps(options.runs);
    let measured = match check_memory(&steps) {
        Ok(()) => Bench::new(options, &machines, &site)?.measure(&steps, &mut results, keep),
        Err(error) => Err(error),
    };
    let interrupted = match measured {
        Ok(()) => false,
        Err(error) if error.is::<Interrupted>() => true,
        Err(error) => return Err(error),
    };
    results.complete = !interrupted;
    keep(&results);
    let shown = show(options, &results, file.as_ref());
    Ok(match () {
        () if interrupted => ExitCode::from(INTERRUPTED),
        () if results.any_failed() || file.is_none() || shown.is_err() => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

/// Whether the greatest guest will fit: known before anything is measured.
fn check_memory(steps: &[Step]) -> Result<()> {
    let most = steps.iter().map(|step| step.arm.workload.memory_bytes).max().unwrap_or(0);
    WarmMemory::check(most)
}

/// What is needed for all runs.
struct Bench<'a> {
    options: &'a Compare,
    machines: &'a Machines,
    site: &'a Site,
    folder: Folder,
    /// Nothing if there is no client, or its file cannot be written.
    timeline: Option<TimelineFile>,
    memory: WarmMemory,
    /// What plain TCP moved a second, by pass and size of memory.
    limits: HashMap<(u32, u64), Option<u64>>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Compare, machines: &'a Machines, site: &'a Site) -> Result<Bench<'a>> {
        let (memory, limits) = (WarmMemory::default(), HashMap::new());
        let timeline =
            site.has_client().then(|| TimelineFile::create(&options.out).map_err(|error| complain(&error)));
        let timeline = timeline.and_then(Result::ok);
        Ok(Bench { options, machines, site, folder: Folder::make()?, timeline, memory, limits })
    }

    /// All steps, in order. Fails only if the user interrupts; then what is measured is in `results`.
    fn measure(mut self, steps: &[Step], results: &mut Results, keep: impl Fn(&Results)) -> Result<()> {
        for (i, step) in steps.iter().enumerate() {
            interrupt::check()?;
            let run = self.step(step)?;
            let workload = &run.workload;
            eprintln!(
                "[{:>2}/{}] {:<13} {}, {} pages/s, run {}: {}",
                i + 1,
                steps.len(),
                run.strategy,
                units::bytes(workload.memory_bytes),
                units::count(workload.dirty_rate_pages_per_second),
                run.pass,
                outcome(&run),
            );
            results.runs.push(run);
            keep(results);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<Run> {
        let mut run = Run::planned(step.arm.strategy, step.arm.workload, step.pass);
        run.simulated = self.machines.simulated.is_some();
        run.downtime_limit_us = self.options.downtime_limit.as_micros() as u64;
        if let Some(reason) = &self.machines.no_missing_pages
            && step.arm.strategy.needs().missing_pages
        {
            run.outcome = RunOutcome::Skipped;
            run.error = Some(reason.clone());
            return Ok(run);
        }
        match self.limit(step).and_then(|limit| self.migrate(step, limit, &mut run)) {
            Ok(()) => {}
            // Whatever failed meanwhile failed because of it.
            Err(_) if interrupt::is_requested() => return Err(Interrupted.into()),
            Err(error) => {
                run.outcome = RunOutcome::Failed;
                run.error = Some(format!("{error:#}"));
            }
        }
        Ok(run)
    }

    fn migrate(&mut self, step: &Step, limit: Option<u64>, run: &mut Run) -> Result<()> {
        run.limit_bytes_per_second = limit;
        self.warm_up(step)?;
        let network = self.site.network()?;
        let rig = Rig {
            runtime: self.folder.path(),
            simulated: run.simulated,
            downtime_limit: self.options.downtime_limit,
            network: network.as_ref(),
            has_client: self.site.has_client(),
            timeline: self.timeline.as_ref(),
        };
        rig::measure(&rig, step, &mut self.memory, run)
    }

    /// The limit, probed once in each pass for each size of memory. That it is not known is no reason not to measure.
    fn limit(&mut self, step: &Step) -> Result<Option<u64>> {
        let memory = step.arm.workload.memory_bytes;
        if let Some(limit) = self.limits.get(&(step.pass, memory)) {
            return Ok(*limit);
        }
        self.warm_up(step)?;
        self.memory.release_source();
        self.memory.release_destination();
        let limit = self
            .site
            .network()
            .and_then(|network| rig::measure_limit(memory, self.folder.path(), network.as_ref()))
            .inspect_err(|error| eprintln!("the limit is not known in this pass: {error:#}"))
            .ok();
        self.limits.insert((step.pass, memory), limit);
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

/// Table and words on stdout, the report in its folder.
fn show(options: &Compare, results: &Results, file: Option<&ResultsFile>) -> Result<()> {
    let summary = Summary::of(results);
    println!("{}", table::draw(&summary));
    for verdict in verdict::of(&summary) {
        let guest = summary.name_of(&verdict.workload).map(|name| format!("{name}: ")).unwrap_or_default();
        println!("{guest}{}", verdict.headline);
        if guest.is_empty() {
            verdict.prices.iter().for_each(|price| println!("  - {price}"));
        }
    }
    table::notes(&summary).iter().for_each(|note| println!("{note}"));
    let page = report::write(results, &options.out).inspect_err(complain)?;
    match file {
        Some(file) => println!("Report: {} (data: {})", page.display(), file.path().display()),
        None => println!("Report: {}", page.display()),
    }
    Ok(())
}

fn complain(error: &anyhow::Error) {
    eprintln!("ferry-bench: {error:#}");
}
