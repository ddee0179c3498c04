//! How far a migration is, for whoever watches.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::pages::Sent;

/// What the source is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reaching the destination.
    #[default]
    Connecting,
    /// Making the destination ready: its machine, its memory, the other links.
    Preparing,
    /// Sending pages while the guest runs.
    Rounds,
    /// The guest is paused.
    Switchover,
    /// The guest runs at the destination; missing pages follow.
    Push,
    /// The guest runs at the destination with all of its memory, and digests of it are compared.
    Verify,
    /// Over.
    Ended,
}

/// A look at a migration in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ProgressSnapshot {
    /// What is being done.
    pub phase: Phase,
    /// The round, counted from 0.
    pub round: usize,
    /// Pages sent, in all.
    pub pages_sent: u64,
    /// Pages that this phase, or this round, began with; 0 where it sends none.
    pub phase_pages: u64,
    /// Those of them that are still to go.
    pub pages_left: u64,
    /// Bytes sent, in all.
    pub bytes_sent: u64,
    /// Pages sent on the urgent link, in answer to requests; `pages_sent` counts them, too.
    pub pages_served: u64,
    /// Bytes sent on the urgent link; `bytes_sent` counts them, too.
    pub bytes_served: u64,
    /// How fast this phase goes, in bytes a second, or the last round where this phase sends nothing.
    pub bytes_per_second: u64,
    /// How fast the guest wrote during the last round, in pages a second, at least.
    pub dirty_pages_per_second: u64,
    /// Whether rounds become shorter; nothing before that is known, and with other strategies.
    pub converges: Option<bool>,
    /// The downtime if the guest were paused now, in microseconds.
    pub expected_downtime_us: u64,
    /// How long the guest stood still in rehearsals of its pause, together, in microseconds.
    #[serde(default)]
    pub rehearsal_us: u64,
}

/// What went over the links of one kind, counted as it goes.
#[derive(Debug, Default)]
struct Count {
    pages: AtomicU64,
    zero_pages: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    fn add(&self, sent: Sent) {
        self.pages.fetch_add(sent.pages, Relaxed);
        self.zero_pages.fetch_add(sent.zero_pages, Relaxed);
        self.bytes.fetch_add(sent.bytes, Relaxed);
    }

    fn sent(&self) -> Sent {
        Sent {
            pages: self.pages.load(Relaxed),
            zero_pages: self.zero_pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

/// Shared between the engine's threads, which count what they send without a lock, and whoever looks.
#[derive(Debug, Default)]
pub struct Progress {
    /// All but the counts.
    state: Mutex<ProgressSnapshot>,
    bulk: Count,
    urgent: Count,
    left: AtomicU64,
    /// When the phase began, and bytes sent by then.
    began: Mutex<Option<(Instant, u64)>>,
}

impl Progress {
    /// How things are now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        // Under the lock, so that what is left is of the phase.
        let state = self.lock();
        let (bulk, urgent) = (self.bulk.sent(), self.urgent.sent());
        ProgressSnapshot {
            pages_left: self.left.load(Relaxed).min(state.phase_pages),
            pages_sent: bulk.pages + urgent.pages,
            bytes_sent: bulk.bytes + urgent.bytes,
            bytes_per_second: self.phase_speed(bulk.bytes + urgent.bytes).unwrap_or(state.bytes_per_second),
            pages_served: urgent.pages,
            bytes_served: urgent.bytes,
            ..state.clone()
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ProgressSnapshot)) {
        change(&mut self.lock());
    }

    /// A phase, or a round, that has `pages` to send begins.
    pub fn begin(&self, phase: Phase, pages: u64) {
        let mut state = self.lock();
        (state.phase, state.phase_pages) = (phase, pages);
        self.left.store(pages, Relaxed);
        let bytes = self.bulk.sent().bytes + self.urgent.sent().bytes;
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) =
            (pages > 0).then(|| (Instant::now(), bytes));
    }

    /// Bytes a second since the phase began, of which there are `bytes` in all.
    fn phase_speed(&self, bytes: u64) -> Option<u64> {
        let (since, before) = (*self.began.lock().unwrap_or_else(PoisonError::into_inner))?;
        let sent = bytes.checked_sub(before).filter(|&sent| sent > 0)?;
        Some((sent as f64 / since.elapsed().as_secs_f64().max(1e-3)) as u64)
    }

    /// More was sent on the bulk link.
    pub(crate) fn sent(&self, sent: Sent) {
        self.bulk.add(sent);
        self.fewer_left(sent.pages);
    }

    /// More was sent on the urgent link, `claimed` pages of it instead of by the push.
    pub(crate) fn served(&self, sent: Sent, claimed: u64) {
        self.urgent.add(sent);
        self.fewer_left(claimed);
    }

    /// Everything sent on the urgent link so far.
    pub(crate) fn urgent(&self) -> Sent {
        self.urgent.sent()
    }

    fn fewer_left(&self, pages: u64) {
        self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(pages))).ok();
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // A snapshot is whole after every step, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_18_every_link_counts_as_it_goes_and_what_is_left_never_grows_within_a_phase() {
        let progress = Progress::default();
        let sent = |pages| Sent { pages, zero_pages: 0, bytes: pages * 4100 };
        progress.begin(Phase::Push, 100);
        progress.sent(sent(30));
        progress.served(sent(5), 5);
        // One that the push had claimed.
        progress.served(sent(1), 0);
        let now = progress.snapshot();
        assert_eq!((now.phase_pages, now.pages_left), (100, 65));
        assert_eq!((now.pages_sent, now.bytes_sent), (36, 36 * 4100));
        assert_eq!((now.pages_served, now.bytes_served), (6, 6 * 4100));
        assert!(now.bytes_per_second > 0, "the push's own, though there was no round");
        progress.sent(sent(200));
        assert_eq!(progress.snapshot().pages_left, 0);
    }
}
