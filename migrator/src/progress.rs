//! How far a migration is, for whoever watches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the source is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reaching the destination and making it ready.
    #[default]
    Connecting,
    /// Sending pages while the guest runs.
    Rounds,
    /// The guest stands still.
    Switchover,
    /// The guest runs at the destination; missing pages follow.
    Push,
    /// The guest runs at the destination with all of its memory, and digests of it are compared.
    Verify,
    /// Over.
    Ended,
}

/// A look at a migration in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressSnapshot {
    /// What is being done.
    pub phase: Phase,
    /// The round, counted from 0.
    pub round: usize,
    /// Pages sent, in all.
    pub pages_sent: u64,
    /// Pages to go in this round or push.
    pub pages_left: u64,
    /// Bytes sent, in all.
    pub bytes_sent: u64,
    /// How fast the last round, or this push, went, in bytes a second.
    pub bytes_per_second: u64,
    /// How fast the guest wrote during the last round, in pages a second.
    pub dirty_pages_per_second: u64,
    /// The downtime if the guest were paused now, in microseconds.
    pub expected_downtime_us: u64,
}

/// Shared between the engine, which writes it a few times a megabyte, and whoever looks.
#[derive(Debug, Default)]
pub struct Progress(Mutex<ProgressSnapshot>);

impl Progress {
    /// How things are now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        self.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ProgressSnapshot)) {
        change(&mut self.lock());
    }

    /// `pages` more of this round were sent.
    pub(crate) fn sent(&self, pages: u64) {
        self.update(|now| {
            now.pages_sent += pages;
            now.pages_left = now.pages_left.saturating_sub(pages);
        });
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        // A snapshot is whole after every step, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
