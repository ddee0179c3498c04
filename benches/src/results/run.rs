//! One migration, measured.

use engine::{
    report::{FaultStatistics, Outcome, Report},
    strategy::Strategy,
};
use serde::{Deserialize, Serialize};

use super::{ClientReport, Engine, Moved, PeerFigures, Phases};
use crate::{
    gaps::{GapHistogram, Seen},
    host::Load,
    plan::Workload,
};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// The guest runs at the destination.
    Completed,
    /// The guest runs on at the source, or the run did not come so far.
    Failed,
    /// As failed, on request.
    Cancelled,
    /// Nobody knows which side runs it.
    Unknown,
    /// It was started at the destination and lacks pages.
    Interrupted,
    /// This host does not permit what the strategy needs; the run was not tried.
    Skipped,
}

impl From<Outcome> for RunOutcome {
    fn from(outcome: Outcome) -> RunOutcome {
        match outcome {
            Outcome::Completed => RunOutcome::Completed,
            // A guest that ends is not what is measured.
            Outcome::Failed | Outcome::Ended => RunOutcome::Failed,
            Outcome::Cancelled => RunOutcome::Cancelled,
            Outcome::Unknown => RunOutcome::Unknown,
            Outcome::Interrupted => RunOutcome::Interrupted,
        }
    }
}

/// Page faults at the destination, in post-copy; nothing of what another engine does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFaults {
    /// How many were served.
    pub count: Option<u64>,
    /// Half were served within this; nothing, as in the next two, where there was none.
    pub p50_us: Option<u64>,
    /// All but a hundredth were.
    pub p99_us: Option<u64>,
    /// The slowest.
    pub max_us: Option<u64>,
    /// The sum of all waits; nothing in files that are older than this field.
    pub blocktime_us: Option<u64>,
    /// How many fell into each power of two of microseconds: `[<1, <2, <4, …]`.
    pub histogram: Option<Vec<u64>>,
}

impl From<FaultStatistics> for PageFaults {
    fn from(faults: FaultStatistics) -> PageFaults {
        let FaultStatistics { count, p50_us, p99_us, max_us, blocktime_us, histogram } = faults;
        // Of no faults there is no half.
        let of_some = |figure| (count > 0).then_some(figure);
        PageFaults {
            count: Some(count),
            p50_us: of_some(p50_us),
            p99_us: of_some(p99_us),
            max_us: of_some(max_us),
            blocktime_us: Some(blocktime_us),
            histogram: Some(histogram),
        }
    }
}

/// One run: what was to be moved, how, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which engine moved the guest.
    pub engine: Engine,
    /// Which pass over all arms it belongs to, from 1.
    pub pass: u32,
    /// The guest was simulated: the figures say how the engine behaves, not how fast a VM moves.
    pub simulated: bool,
    /// How it was moved.
    pub strategy: Strategy,
    /// What was moved.
    #[serde(flatten)]
    pub workload: Workload,
    /// The downtime limit that was given to the engine; nothing if none was.
    pub downtime_limit_us: Option<u64>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// What went wrong, why, and what to do, if anything did.
    pub error: Option<String>,
    /// The digests of all memory were equal, and the guest found every page of its own as it had left it.
    /// Nothing where neither could be asked.
    pub verified: Option<bool>,
    /// What it took, as the engine reports it.
    #[serde(flatten)]
    pub moved: Moved,
    /// Downtime by the guest's clock: see [`crate::gaps`] for the rule.
    pub downtime_guest_us: Option<u64>,
    /// The longest other gap that the guest saw during the migration.
    pub longest_stall_us: Option<u64>,
    /// From the command to the source being free of duty.
    pub total_us: Option<u64>,
    /// Page faults at the destination.
    pub page_faults: PageFaults,
    /// What an engine that is not Ferry says besides.
    #[serde(default)]
    pub peer: Option<PeerFigures>,
    /// Pages the guest found that were not as it had left them.
    pub guest_errors: Option<u64>,
    /// How long the gaps were that the guest saw during the migration, the switchover among them.
    #[serde(default)]
    pub guest_gaps: Option<GapHistogram>,
    /// When the phases were, on the axis of the client's requests; nothing where there was no client.
    #[serde(default)]
    pub phases: Option<Phases>,
    /// What the source's process takes beside the guest's memory.
    pub overhead_bytes: Option<u64>,
    /// What a plain TCP sender and receiver moved in this pass, between processes like the VMs'.
    pub limit_bytes_per_second: Option<u64>,
    /// Something else used the host before or during the run, or a hypervisor took processors away: distrust its times.
    pub host_overloaded: bool,
    /// The share of the host that others used, in hundredths of all its CPUs; steal included.
    pub others_cpu_percent: u32,
    /// The time for which a hypervisor took the host's processors away, over all of them, in microseconds.
    #[serde(default)]
    pub stolen_cpu_us: u64,
    /// What an outside client saw; nothing where there was none.
    #[serde(flatten)]
    pub client: Option<ClientReport>,
}

impl Run {
    /// A run of which nothing is known yet but what was planned.
    pub fn planned(strategy: Strategy, workload: Workload, pass: u32) -> Run {
        Run {
            engine: Engine::ferry(),
            pass,
            simulated: false,
            strategy,
            workload,
            downtime_limit_us: None,
            outcome: RunOutcome::Failed,
            error: None,
            verified: None,
            moved: Moved::default(),
            downtime_guest_us: None,
            longest_stall_us: None,
            total_us: None,
            page_faults: PageFaults::default(),
            peer: None,
            guest_errors: None,
            guest_gaps: None,
            phases: None,
            overhead_bytes: None,
            limit_bytes_per_second: None,
            host_overloaded: false,
            others_cpu_percent: 0,
            stolen_cpu_us: 0,
            client: None,
        }
    }

    /// Takes over how the host was used meanwhile.
    pub fn record_load(&mut self, load: Load) {
        self.host_overloaded = load.is_overload();
        self.others_cpu_percent = load.others_percent;
        self.stolen_cpu_us = load.stolen_us;
    }

    /// Takes over what the engine reported.
    pub fn record(&mut self, report: Report) {
        self.outcome = report.outcome.into();
        self.error = report.error;
        self.verified = report.verified;
        self.downtime_limit_us = Some(report.options.downtime_limit_us);
        self.moved = report.moved.into();
        self.total_us = Some(report.total_us);
        self.page_faults = report.page_faults.into();
    }

    /// Takes over what the guest saw.
    pub fn record_guest(&mut self, seen: Seen) {
        (self.downtime_guest_us, self.longest_stall_us) = (seen.downtime_us, seen.longest_stall_us);
    }

    /// Takes over what the guest found in its memory afterwards.
    pub fn record_check(&mut self, errors: u64) {
        self.guest_errors = Some(errors);
        self.verified = Some(self.verified != Some(false) && errors == 0);
    }

    /// Takes out of an older file's run what reads as zero and was not measured.
    pub(super) fn forget_untold(&mut self) {
        if !self.engine.is_ferry() {
            self.moved.forget_untold();
            self.page_faults = PageFaults::default();
        }
    }

    /// It did not do what it was to do. A run that was not tried is none.
    pub fn is_failure(&self) -> bool {
        match self.outcome {
            RunOutcome::Completed => self.verified == Some(false),
            RunOutcome::Skipped => false,
            _ => true,
        }
    }

    /// Its figures count.
    pub fn is_measured(&self) -> bool {
        self.outcome == RunOutcome::Completed
    }

    /// The time in which pages moved, waiting for neither setup nor verification; nothing where rounds are not known
    /// one by one.
    pub fn moving_us(&self) -> Option<u64> {
        if !self.engine.is_ferry() {
            return None;
        }
        let rounds: u64 = self.moved.rounds().iter().map(|round| round.duration_us).sum();
        let push = self.moved.push.map_or(0, |push| push.duration_us);
        Some(rounds + push + self.moved.downtime_engine_us?)
    }
}
