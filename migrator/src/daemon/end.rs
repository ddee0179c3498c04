//! How the process of a VM ends.

use std::thread;

use super::{Daemon, Inner, Place};
use crate::machine::{Ending, Handles};

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest ended by itself.
    Guest(Ending),
    /// It was asked to.
    Stopped,
    /// The VM runs elsewhere.
    Moved {
        /// Where it was sent.
        to: String,
    },
    /// The one VM it was to receive did not come.
    NothingCame,
}

impl Daemon {
    /// How it ends, once that is known.
    pub fn end(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Ends the process. A migration under way is called off first; one past its handover is finished first, since the
    /// guest needs its pages.
    pub fn stop(&self) {
        self.update(Inner::stop);
    }

    pub(super) fn finish(&self, end: End) {
        self.update(|inner| inner.end.get_or_insert(end).clone());
    }

    /// Ends the process when the guest ends.
    pub(super) fn watch_guest(self: &std::sync::Arc<Self>, handles: Handles) {
        let daemon = self.clone();
        let watch = move || {
            let Some(ending) = handles.wait_for_ending() else { return };
            daemon.update(|inner| {
                if let Place::Migrating { interrupt } = &inner.place {
                    // There is no guest to move any more.
                    interrupt.raise();
                }
                inner.end.get_or_insert(End::Guest(ending));
            });
        };
        if let Err(error) = thread::Builder::new().name("guest-events".to_owned()).spawn(watch) {
            tracing::error!(%error, "nobody watches for the guest's end");
        }
    }
}

impl Inner {
    fn stop(&mut self) {
        match &self.place {
            Place::Migrating { interrupt } => {
                interrupt.raise();
                self.stop_wanted = true;
            }
            _ => {
                self.end.get_or_insert(End::Stopped);
            }
        }
    }
}
