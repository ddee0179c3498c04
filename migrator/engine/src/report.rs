//! What a migration cost: the one schema for `ferry migrate --json`, the API and the harness.

use std::{error::Error, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    options::{Options, Verify},
    pages::{PAGE_SIZE, Sent},
    source::{Fixed, MigrateError},
    strategy::{Strategy, convergence::transfer_time},
    timeline::{DowntimeParts, PhaseTimes, Round, Timeline, micros},
    vm::{VmDescription, VmError},
};

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest runs at the destination with all of its memory; the source is free of duty.
    Completed,
    /// The guest runs on at the source. Trying again is safe.
    Failed,
    /// As failed, because the user asked for it.
    Cancelled,
    /// The destination was told to start the guest and did not answer: it may run there or not. Here
    /// it is paused and whole. Look at the destination before resuming it here.
    Unknown,
    /// The guest ran at the destination and ended there before its last page came. It runs nowhere any more.
    Ended,
    /// The guest was started at the destination, but pages are missing there that only the source
    /// has. Here it is paused, and must not be resumed.
    Interrupted,
}

/// One round, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RoundReport {
    /// Pages it sent, zero or not.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Different pages that the guest wrote meanwhile, however often.
    pub dirtied_pages: u64,
    /// Pages a second that the guest wrote, at least: a page that is written again counts once.
    #[serde(default)]
    pub dirty_pages_per_second_at_least: u64,
    /// About how many it wrote: by the first milliseconds of the round, where it was long enough for a look, in which fewer
    /// are written twice. A guest that had waited for a processor may have caught up just then.
    #[serde(default)]
    pub dirty_pages_per_second_estimated: u64,
}

impl From<&Round> for RoundReport {
    fn from(round: &Round) -> RoundReport {
        RoundReport {
            pages: round.sent.pages,
            zero_pages: round.sent.zero_pages,
            bytes: round.sent.bytes,
            duration_us: micros(round.duration),
            dirtied_pages: round.dirtied,
            dirty_pages_per_second_at_least: round.distinct_rate() as u64,
            dirty_pages_per_second_estimated: round.dirty_rate() as u64,
        }
    }
}

/// What was sent while the guest was paused, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PassReport {
    /// Pages it sent, zero or not.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// How long it took to take the last dirty pages and to give all to the link, in microseconds.
    pub duration_us: u64,
}

impl From<&Round> for PassReport {
    fn from(pass: &Round) -> PassReport {
        PassReport {
            pages: pass.sent.pages,
            zero_pages: pass.sent.zero_pages,
            bytes: pass.sent.bytes,
            duration_us: micros(pass.duration),
        }
    }
}

/// What was sent in answer to page requests, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ServedReport {
    /// Pages it sent, zero or not.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

/// What it took to move a guest: downtime, bytes and rounds. The harness keeps the same for each of its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Moved {
    /// Downtime by the engine's clock, in microseconds; nothing if the guest did not move.
    pub downtime_engine_us: Option<u64>,
    /// Its parts, which add up to it, in microseconds.
    pub downtime_parts_us: DowntimeParts,
    /// From the command to the first page, in microseconds: connecting, and making the destination ready.
    pub setup_us: u64,
    /// Bytes of page data on bulk and urgent links: those of the rounds, `final`, `push` and `served`, together.
    pub bytes_sent: u64,
    /// Pages sent, zero or not, each as often as it was sent.
    pub pages_sent: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Frames of the guest's network that came to the source when the guest had left, and were carried over.
    #[serde(default)]
    pub network_frames_carried: u64,
    /// The rounds made while the guest ran at the source.
    pub rounds: Vec<RoundReport>,
    /// What was sent on the bulk link while the guest was paused; nothing if it never was.
    #[serde(default, rename = "final")]
    pub final_pages: Option<PassReport>,
    /// What was pushed after the start, if pages were missing.
    pub push: Option<RoundReport>,
    /// What was sent on the urgent link, in answer to page requests.
    #[serde(default)]
    pub served: ServedReport,
}

/// What one migration cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Report {
    /// The VM's name.
    pub name: String,
    /// How it was moved.
    pub strategy: Strategy,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u8,
    /// Its user had paused it: wherever it is, it stands still until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong, if anything did.
    pub error: Option<String>,
    /// How the guest ended at the destination, if it did before the migration was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_end: Option<GuestEnd>,
    /// Whether digests of all memory were the same; nothing if they were not compared.
    pub verified: Option<bool>,
    /// What it took.
    #[serde(flatten)]
    pub moved: Moved,
    /// How long the guest stood still in rehearsals of its pause, together, in microseconds: before anything moved, and part
    /// of the setup. Draining a slow disk makes it long.
    #[serde(default)]
    pub rehearsal_us: u64,
    /// What the downtime was expected to be without any page, before anything moved, in microseconds.
    pub fixed_downtime_us: u64,
    /// Whether pre-copy's downtime was within `--downtime-limit`; nothing for other strategies, and if it did not move.
    #[serde(default)]
    pub downtime_limit_kept: Option<bool>,
    /// The parts of the downtime as pre-copy expected them when it decided to pause. `final_pages` is all the time of the
    /// last dirty pages, on the way too.
    #[serde(default)]
    pub downtime_expected_us: Option<DowntimeParts>,
    /// From the command to the source being free of duty, or to the failure, in microseconds.
    pub total_us: u64,
    /// Its parts, which add up to it, in microseconds.
    #[serde(default)]
    pub phases_us: PhaseTimes,
    /// Page faults at the destination.
    pub page_faults: FaultStatistics,
    /// The options that were in force.
    pub options: OptionsReport,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GuestEnd {
    /// What its process exits with.
    pub exit_code: u8,
    /// What happened, in words.
    pub words: String,
}

/// Page faults as the destination's fault thread saw them, from reading the fault to the page being
/// in place, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FaultStatistics {
    /// How many faults were served.
    pub count: u64,
    /// Half were served within this, in microseconds.
    pub p50_us: u64,
    /// All but a hundredth were, in microseconds.
    pub p99_us: u64,
    /// The slowest, in microseconds.
    pub max_us: u64,
    /// Blocktime: the sum of all these waits, in microseconds. A page that several vCPUs wait for counts once.
    pub blocktime_us: u64,
    /// How many fell into each power of two of microseconds: `[<1, <2, <4, …]`.
    pub histogram: Vec<u64>,
}

/// The options of a migration, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OptionsReport {
    /// `--downtime-limit`, in microseconds.
    pub downtime_limit_us: u64,
    /// `--max-rounds`.
    pub max_rounds: u32,
    /// `--max-bandwidth`, in bits a second; nothing for no limit.
    pub max_bandwidth_bits_per_second: Option<u64>,
    /// `--timeout`, in microseconds; nothing for no limit.
    pub timeout_us: Option<u64>,
    /// `--verify`.
    pub verify: Verify,
}

impl Report {
    /// Of a migration that is about to begin: nothing is known to have happened yet.
    pub fn new(strategy: Strategy, vm: &VmDescription, options: &Options) -> Report {
        Report {
            name: vm.name.clone(),
            strategy,
            memory_bytes: vm.page_count * PAGE_SIZE as u64,
            vcpus: vm.vcpus,
            paused: vm.paused,
            outcome: Outcome::Failed,
            error: None,
            guest_end: None,
            verified: None,
            moved: Moved::default(),
            rehearsal_us: 0,
            fixed_downtime_us: 0,
            downtime_limit_kept: None,
            downtime_expected_us: None,
            total_us: 0,
            phases_us: PhaseTimes::default(),
            page_faults: FaultStatistics::default(),
            options: OptionsReport {
                downtime_limit_us: micros(options.downtime_limit),
                max_rounds: options.max_rounds,
                max_bandwidth_bits_per_second: options.max_bandwidth,
                timeout_us: options.timeout.map(micros),
                verify: options.verify,
            },
        }
    }

    pub(crate) fn record(&mut self, timeline: &Timeline, fixed: &Fixed, bulk: Sent, served: Sent) {
        self.phases_us = timeline.phases();
        self.total_us = self.phases_us.total_us();
        self.moved.setup_us = self.phases_us.setup;
        self.fixed_downtime_us = micros(fixed.total());
        self.moved.rounds = timeline.rounds.iter().map(RoundReport::from).collect();
        self.moved.final_pages = timeline.final_pages.as_ref().map(PassReport::from);
        self.moved.push = timeline.push.as_ref().map(RoundReport::from);
        self.moved.served =
            ServedReport { pages: served.pages, zero_pages: served.zero_pages, bytes: served.bytes };
        let mut sent = bulk;
        sent.add(served);
        (self.moved.bytes_sent, self.moved.pages_sent, self.moved.zero_pages) =
            (sent.bytes, sent.pages, sent.zero_pages);
        if let Some(switchover) = &timeline.switchover {
            self.moved.downtime_parts_us = switchover.parts();
            self.moved.downtime_engine_us = Some(self.moved.downtime_parts_us.total_us());
        }
    }

    /// It ended before anything was ready: all the time was setup.
    pub(crate) fn end_in_setup(&mut self, took: Duration) {
        self.phases_us = PhaseTimes { setup: micros(took), ..PhaseTimes::default() };
        self.total_us = self.phases_us.total_us();
        self.moved.setup_us = self.total_us;
    }

    /// Holds the downtime against what was planned.
    pub(crate) fn judge_downtime(&mut self, rounds: &[Round], fixed: &Fixed) {
        let Some(downtime) = self.moved.downtime_engine_us else { return };
        let dirty = rounds.last().map_or(0, |round| round.dirtied);
        self.downtime_limit_kept = Some(downtime <= self.options.downtime_limit_us);
        self.downtime_expected_us = Some(fixed.parts(transfer_time(rounds, dirty)));
    }

    /// The part of the downtime that took longest over what was expected.
    pub fn longest_over_expectation(&self) -> Option<&'static str> {
        let (was, expected) = (&self.moved.downtime_parts_us, self.downtime_expected_us?);
        let over = [
            ("pause", was.pause, expected.pause),
            ("save state", was.save_state, expected.save_state),
            ("last pages", was.final_pages + was.transfer, expected.final_pages + expected.transfer),
            ("verify", was.verify, expected.verify),
            ("load", was.load, expected.load),
            ("start", was.start, expected.start),
        ];
        over.into_iter().max_by_key(|(_, was, expected)| was.saturating_sub(*expected)).map(|(part, ..)| part)
    }

    pub(crate) fn complete(&mut self, verified: Option<bool>, faults: FaultStatistics) {
        self.outcome = Outcome::Completed;
        self.page_faults = faults;
        self.verified = verified;
        if verified == Some(false) {
            self.error =
                Some("memory at the destination is not what it was at the source: digests differ".to_owned());
        }
    }

    pub(crate) fn fail(&mut self, outcome: Outcome, error: MigrateError) {
        self.outcome = outcome;
        self.error = Some(in_words(&error));
    }
}

impl Report {
    /// The guest ended where it was moved to.
    pub(crate) fn guest_ended(&mut self, end: GuestEnd) {
        self.outcome = Outcome::Ended;
        self.error = Some(end.words.clone());
        self.guest_end = Some(end);
    }

    /// The guest stayed here and could not be resumed.
    pub(crate) fn stays_paused(&mut self, error: &VmError) {
        self.paused = true;
        let why = format!("the guest is paused here, because it could not be resumed: {}", in_words(error));
        self.error = Some(match self.error.take() {
            Some(first) => format!("{first}; {why}"),
            None => why,
        });
    }
}

/// An error with all its causes, in one line.
pub fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
