//! What `compare` and `sweep` share: prepare, measure, keep, show.

use std::{
    fs,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};

use crate::{
    bench::Bench,
    command::{Against, Compare},
    host::{HostFacts, Machines, WarmMemory},
    interrupt::{self, Interrupted},
    peer::{self, Peer},
    plan::Step,
    report,
    results::{Request, Results, ResultsFile, TimelineFile},
    resume,
    rig::Folder,
    site::Site,
    summary::Summary,
    table, verdict,
};

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// What is kept beside the results of runs.
#[derive(Debug)]
pub enum Keep {
    /// Every request of the clients, in `timeline.csv`.
    Requests,
    /// Nothing, but runs are added to those that are there. (A sweep has hundreds of runs of thousands of requests.)
    ToResume(Option<Box<Results>>),
}

/// Measures, and shows what came out.
///
/// # Errors
/// If nothing can be measured at all. A run that fails is a result.
pub fn run(options: &Compare, keep: Keep) -> Result<ExitCode> {
    // While there is one thread only.
    let site = Site::prepare(options)?;
    interrupt::watch()?;
    let machines = Machines::probe(options.simulated);
    let site = if machines.simulated.is_some() { site.without_client() } else { site };
    if let Some(reason) = &machines.simulated {
        print(&[format!(
            "SIMULATED GUESTS ({reason}): engine, links and bytes are real, the machine is not. The figures say how the \
             strategies compare, not how fast a VM moves; run on a host with KVM for that."
        )])
        .inspect_err(complain)
        .ok();
    }
    let folder = Folder::make()?;
    let peer = find_peer(options, &folder, &machines);
    let host = HostFacts::gather(&machines, site.congestion_control().map(str::to_owned));
    let mut plan = options.plan(site.has_client());
    plan.choices.peers.clone_from(&peer.settings);
    let is_sweep = matches!(keep, Keep::ToResume(_));
    let mut results = match keep {
        Keep::ToResume(Some(earlier)) => {
            resume::check(&earlier, &plan, &host)
                .with_context(|| format!("go on with {}", options.results_path().display()))?;
            Results { complete: false, ..*earlier }
        }
        Keep::ToResume(None) | Keep::Requests => Results::new(host, plan.clone()),
    };
    results.notes.clone_from(&peer.left_out);
    let steps = resume::remaining(plan.steps(), &results);
    if !results.runs.is_empty() {
        eprintln!("going on: {} runs are there, {} are left", results.runs.len(), steps.len());
    }
    let files = Files::create(options, &results, !is_sweep && site.has_client());

    let measured = match check_memory(&steps) {
        Ok(()) => Bench::new(options, &machines, &site, folder, &peer).measure(&steps, |run, requests| {
            results.runs.push(run);
            // One that finds no room has said so; at the end it is tried once more.
            files.keep(&results, &requests).ok();
        }),
        Err(error) => Err(error),
    };
    let interrupted = match measured {
        Ok(()) => false,
        Err(error) if error.is::<Interrupted>() => true,
        Err(error) => return Err(error),
    };
    results.complete = !interrupted;
    let kept = files.keep(&results, &[]);
    let shown = show(options, &results, files.results.as_ref());
    if interrupted && is_sweep {
        eprintln!("Interrupted: the same command with --resume goes on.");
    }
    Ok(match () {
        () if interrupted => ExitCode::from(INTERRUPTED),
        () if results.any_failed() || kept.is_err() || shown.is_err() => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

/// What there is to compare with; what is left out is said at once.
fn find_peer(options: &Compare, folder: &Folder, machines: &Machines) -> Peer {
    let peer = match options.against {
        None => Peer::default(),
        Some(Against::Qemu) => Peer::find(&options.qemu, folder.path(), machines.simulated.is_some()),
    };
    if !peer.left_out.is_empty() {
        print(&peer.left_out).inspect_err(complain).ok();
    }
    peer
}

/// Whether the greatest guest will fit: known before anything is measured.
fn check_memory(steps: &[Step]) -> Result<()> {
    let most = steps.iter().map(|step| step.arm.workload.memory_bytes).max().unwrap_or(0);
    WarmMemory::check(most)
}

/// Where results go as they come. What cannot be written is said before anything is measured; the table is worth it all
/// the same.
struct Files {
    results: Option<ResultsFile>,
    timeline: Option<TimelineFile>,
}

impl Files {
    fn create(options: &Compare, results: &Results, with_timeline: bool) -> Files {
        let path = options.results_path();
        let file = ResultsFile::create(&path, results).map_err(|error| complain(&error)).ok();
        let timeline = TimelineFile::beside(&path);
        if !with_timeline || file.is_none() {
            // What is left of other runs does not belong to these.
            fs::remove_file(&timeline).ok();
            return Files { results: file, timeline: None };
        }
        Files {
            results: file,
            timeline: TimelineFile::create(timeline).map_err(|error| complain(&error)).ok(),
        }
    }

    /// The results so far, and the requests of the last run of them.
    fn keep(&self, results: &Results, requests: &[Request]) -> Result<()> {
        if let (Some(file), Some(run)) = (&self.timeline, results.runs.last()) {
            file.append(results.runs.len(), run, requests).map_err(|error| complain(&error)).ok();
        }
        let file = self.results.as_ref().context("there is no results file")?;
        file.write(results).inspect_err(complain)
    }
}

/// The report in its folder, then table and words on stdout: neither costs the other.
fn show(options: &Compare, results: &Results, file: Option<&ResultsFile>) -> Result<()> {
    let summary = Summary::of(results);
    let page = report::write(results, &options.results_path(), &options.out).inspect_err(complain);
    let mut lines = vec![table::draw(&summary).to_string()];
    lines.extend(peer::draw(&summary).map(|beside| format!("\n{beside}")));
    for verdict in verdict::of(&summary) {
        let guest = summary.name_of(&verdict.workload).map(|name| format!("{name}: ")).unwrap_or_default();
        lines.push(format!("{guest}{}", verdict.headline));
        if guest.is_empty() {
            lines.extend(verdict.prices.iter().map(|price| format!("  - {price}")));
        }
    }
    lines.extend(table::notes(&summary));
    lines.extend(peer::notes(&summary).map(|words| format!("{} {words}", peer::RATIOS)));
    lines.extend(page.as_ref().ok().map(|page| match file {
        Some(file) => format!("Report: {} (data: {})", page.display(), file.path().display()),
        None => format!("Report: {}", page.display()),
    }));
    print(&lines).inspect_err(complain).and(page.map(drop))
}

/// Prints lines; that nobody reads them any more is no error.
fn print(lines: &[String]) -> Result<()> {
    let text = lines.join("\n") + "\n";
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

fn complain(error: &anyhow::Error) {
    eprintln!("ferry-bench: {error:#}");
}
