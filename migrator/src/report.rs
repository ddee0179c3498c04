//! What a migration cost: the one schema for `ferry migrate --json`, the API and the harness.

use std::error::Error;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    options::{Options, Verify},
    pages::{PAGE_SIZE, Sent},
    protocol::{FaultStatistics, GuestEnd},
    source::{Fixed, MigrateError},
    strategy::Strategy,
    timeline::{DowntimeParts, Round, Timeline, micros},
    vm::{VmDescription, VmError},
};

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoundReport {
    /// Pages it sent, zero or not.
    pub pages: u64,
    /// Those of them that were zero.
    pub zero_pages: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// Pages the guest wrote meanwhile.
    pub dirtied_pages: u64,
}

impl From<&Round> for RoundReport {
    fn from(round: &Round) -> RoundReport {
        RoundReport {
            pages: round.sent.pages,
            zero_pages: round.sent.zero_pages,
            bytes: round.sent.bytes,
            duration_us: micros(round.duration),
            dirtied_pages: round.dirtied,
        }
    }
}

/// What it took to move a guest: downtime, bytes and rounds. The harness keeps the same for each of its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Moved {
    /// Downtime by the engine's clock, in microseconds; nothing if the guest did not move.
    pub downtime_engine_us: Option<u64>,
    /// Its parts, which add up to it, in microseconds.
    pub downtime_parts_us: DowntimeParts,
    /// From the command to the first page, in microseconds: connecting, and making the destination ready.
    pub setup_us: u64,
    /// Bytes on bulk and urgent links.
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
    /// What was pushed after the start, if pages were missing.
    pub push: Option<RoundReport>,
}

/// What one migration cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// What the downtime was expected to be without any page, before anything moved, in microseconds.
    pub fixed_downtime_us: u64,
    /// From the command to the source being free of duty, or to the failure, in microseconds.
    pub total_us: u64,
    /// Page faults at the destination.
    pub page_faults: FaultStatistics,
    /// The options that were in force.
    pub options: OptionsReport,
}

/// The options of a migration, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    pub(crate) fn new(strategy: Strategy, vm: &VmDescription, options: &Options) -> Report {
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
            fixed_downtime_us: 0,
            total_us: 0,
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

    pub(crate) fn record(&mut self, timeline: &Timeline, fixed: &Fixed, sent: Sent) {
        self.total_us = micros(timeline.total());
        self.moved.setup_us = timeline.ready.map_or(self.total_us, |ready| micros(ready - timeline.begin));
        self.fixed_downtime_us = micros(fixed.total());
        self.moved.rounds = timeline.rounds.iter().map(RoundReport::from).collect();
        self.moved.push = timeline.push.as_ref().map(RoundReport::from);
        (self.moved.bytes_sent, self.moved.pages_sent, self.moved.zero_pages) =
            (sent.bytes, sent.pages, sent.zero_pages);
        if let Some(switchover) = &timeline.switchover {
            self.moved.downtime_parts_us = switchover.parts();
            self.moved.downtime_engine_us = Some(self.moved.downtime_parts_us.total_us());
        }
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
