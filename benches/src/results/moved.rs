//! What it took to move a guest, as far as it was measured.

use engine::{
    report,
    report::{PassReport, RoundReport, ServedReport},
    timeline::DowntimeParts,
};
use serde::{Deserialize, Serialize};

/// As the engine's own report has it ([`report::Moved`]), but that each figure may be missing: another engine tells fewer,
/// and a run that did not come so far has none. What was not measured is null in the file, and never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Downtime by the engine's clock.
    pub downtime_engine_us: Option<u64>,
    /// Its parts, which add up to it.
    pub downtime_parts_us: Option<DowntimeParts>,
    /// From the command to the first page: connecting, and making the destination ready.
    pub setup_us: Option<u64>,
    /// Bytes on bulk and urgent links.
    pub bytes_sent: Option<u64>,
    /// Pages sent, zero or not, each as often as it was sent.
    pub pages_sent: Option<u64>,
    /// Those of them that were zero.
    pub zero_pages: Option<u64>,
    /// Frames of the guest's network that came to the source when the guest had left, and were carried over.
    pub network_frames_carried: Option<u64>,
    /// The rounds made while the guest ran at the source; empty if there was none.
    pub rounds: Option<Vec<RoundReport>>,
    /// What was sent while the guest was paused.
    #[serde(default, rename = "final")]
    pub final_pages: Option<PassReport>,
    /// What was sent in answer to page requests.
    #[serde(default)]
    pub served: Option<ServedReport>,
    /// What was pushed after the start; nothing if no page was missing, either.
    pub push: Option<RoundReport>,
}

impl From<report::Moved> for Moved {
    fn from(moved: report::Moved) -> Moved {
        Moved {
            downtime_engine_us: moved.downtime_engine_us,
            // Who did not stand still has no parts of it.
            downtime_parts_us: moved.downtime_engine_us.map(|_| moved.downtime_parts_us),
            setup_us: Some(moved.setup_us),
            bytes_sent: Some(moved.bytes_sent),
            pages_sent: Some(moved.pages_sent),
            zero_pages: Some(moved.zero_pages),
            network_frames_carried: Some(moved.network_frames_carried),
            rounds: Some(moved.rounds),
            final_pages: moved.final_pages,
            served: Some(moved.served),
            push: moved.push,
        }
    }
}

impl Moved {
    /// The rounds that are known one by one.
    pub fn rounds(&self) -> &[RoundReport] {
        self.rounds.as_deref().unwrap_or_default()
    }

    /// Older files have zeros where another engine does not tell.
    pub(super) fn forget_untold(&mut self) {
        self.downtime_parts_us = self.downtime_parts_us.filter(|parts| parts.total_us() > 0);
        self.network_frames_carried = None;
        self.rounds = self.rounds.take().filter(|rounds| !rounds.is_empty());
    }
}
