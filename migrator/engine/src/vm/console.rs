//! What a guest wrote to its console last: it goes along, so that who looks at the new place sees what came before.

use std::sync::{Arc, OnceLock};

use super::SourceVm;

/// The most of it that is kept, and that goes along.
pub const CONSOLE_BYTES: usize = 64 << 10;

/// What a guest wrote to its console, as far as it is kept.
pub trait ConsoleHistory: Send + Sync {
    /// What was written from `place` on, and the place behind it.
    fn read_from(&self, place: u64) -> (Vec<u8>, u64);

    /// Adds what the guest wrote before it came here.
    fn add(&self, bytes: &[u8]);
}

/// Where a machine finds the history of its console; clones share it. Empty until somebody keeps one.
#[derive(Clone, Default)]
pub struct KeptConsole(Arc<OnceLock<Arc<dyn ConsoleHistory>>>);

impl KeptConsole {
    /// From here on it is kept there; the first word counts.
    pub fn keep(&self, history: Arc<dyn ConsoleHistory>) {
        self.0.get_or_init(|| history);
    }

    /// What is kept.
    pub fn get(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.0.get().cloned()
    }
}

/// Sends most of a history ahead with the offer, so that little is left for the downtime.
pub(crate) struct ConsoleToGo {
    history: Option<Arc<dyn ConsoleHistory>>,
    /// How far it has been sent.
    place: u64,
}

impl ConsoleToGo {
    /// Of a guest that is about to be offered.
    pub fn of(vm: &dyn SourceVm) -> ConsoleToGo {
        ConsoleToGo { history: vm.console(), place: 0 }
    }

    /// What was written since this was asked last.
    pub fn next(&mut self) -> Vec<u8> {
        let Some(history) = &self.history else { return Vec::new() };
        let (mut bytes, end) = history.read_from(self.place);
        self.place = end;
        bytes.drain(..bytes.len().saturating_sub(CONSOLE_BYTES));
        bytes
    }
}
