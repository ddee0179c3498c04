//! What two QEMUs say while they move a guest, and when it is over.
//!
//! ```text
//! source        MIGRATION setup ─ active ─────── STOP ─ … ─ completed
//! destination   MIGRATION setup ─ active ─ … ───────────────── RESUME ─ completed     pre-copy
//!                                        RESUME ─ … ──────────────────── completed     post-copy
//! ```

use super::qmp::Event;
use crate::results::RunOutcome;

/// What is known so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the guest stood still at the source, by the host's time of day in microseconds.
    pub stopped_at_us: Option<u64>,
    /// When it was about to run at the destination.
    pub resumed_at_us: Option<u64>,
    /// When the source was done.
    pub completed_at_us: Option<u64>,
    /// The destination has all it needs.
    pub arrived: bool,
    /// How it ended, if badly.
    pub ended: Option<RunOutcome>,
}

impl Progress {
    /// The source says something.
    pub fn source_says(&mut self, event: &Event) {
        match (event.name.as_str(), event.data["status"].as_str()) {
            ("STOP", _) => self.stopped_at_us = self.stopped_at_us.or(Some(event.at_us)),
            ("MIGRATION", Some("completed")) => self.completed_at_us = Some(event.at_us),
            ("MIGRATION", Some("failed")) => self.ended = Some(RunOutcome::Failed),
            ("MIGRATION", Some("cancelled")) => self.ended = Some(RunOutcome::Cancelled),
            // Its guest is at the destination and lacks pages that only the source has.
            ("MIGRATION", Some("postcopy-paused")) => self.ended = Some(RunOutcome::Interrupted),
            _ => {}
        }
    }

    /// The destination says something.
    pub fn destination_says(&mut self, event: &Event) {
        match (event.name.as_str(), event.data["status"].as_str()) {
            ("RESUME", _) => self.resumed_at_us = self.resumed_at_us.or(Some(event.at_us)),
            ("MIGRATION", Some("completed")) => self.arrived = true,
            ("MIGRATION", Some("failed")) => self.ended = self.ended.or(Some(RunOutcome::Failed)),
            _ => {}
        }
    }

    /// Both sides are done, and the guest runs.
    pub fn is_done(&self) -> bool {
        self.completed_at_us.is_some() && self.arrived && self.resumed_at_us.is_some()
    }

    /// How long the guest stood still for certain.
    pub fn stood_still_us(&self) -> u64 {
        self.resumed_at_us
            .zip(self.stopped_at_us)
            .map_or(0, |(resumed, stopped)| resumed.saturating_sub(stopped))
    }

    /// From a moment until the source is free of duty and the guest runs.
    pub fn since_us(&self, began_at_us: u64) -> Option<u64> {
        let end = self.completed_at_us?.max(self.resumed_at_us?);
        Some(end.saturating_sub(began_at_us))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(name: &str, status: Option<&str>, at_us: u64) -> Event {
        Event { name: name.to_owned(), data: json!({ "status": status }), at_us }
    }

    #[test]
    fn a_pre_copy_is_done_when_both_say_so_and_the_guest_runs() {
        let mut progress = Progress::default();
        progress.source_says(&event("MIGRATION", Some("active"), 10));
        progress.source_says(&event("STOP", None, 500));
        progress.source_says(&event("MIGRATION", Some("completed"), 900));
        progress.destination_says(&event("RESUME", None, 950));
        assert!(!progress.is_done());
        progress.destination_says(&event("MIGRATION", Some("completed"), 960));
        assert!(progress.is_done());
        assert_eq!((progress.stood_still_us(), progress.since_us(50)), (450, Some(900)));
    }

    #[test]
    fn how_it_failed_is_told_apart() {
        for (status, outcome) in [
            ("failed", RunOutcome::Failed),
            ("cancelled", RunOutcome::Cancelled),
            ("postcopy-paused", RunOutcome::Interrupted),
        ] {
            let mut progress = Progress::default();
            progress.source_says(&event("MIGRATION", Some(status), 1));
            assert_eq!(progress.ended, Some(outcome));
            assert_eq!(progress.since_us(0), None);
        }
    }
}
