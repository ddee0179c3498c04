//! How the process of a VM ends.

use std::{sync::Arc, thread, time::Duration};

use super::{Daemon, Place, Refusal};
use crate::machine::{Ending, Handles};
use engine::report::GuestEnd;

/// How long the source may take to hear of the end of a guest whose pages it still has.
const SOURCE_HEARS_WITHIN: Duration = Duration::from_secs(2);

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
    /// The guest moved, and ended there before its last page had come.
    EndedElsewhere {
        /// Where it was sent.
        to: String,
        /// How it ended.
        ending: GuestEnd,
    },
    /// The one VM it was to receive did not come.
    NothingCame,
}

impl Daemon {
    /// How it ends, once that is known.
    pub fn end(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Ends the process. A migration under way is called off first. One past its handover is not, since the guest at the
    /// destination needs pages that are here, unless this is `forced`.
    ///
    /// # Errors
    /// Then nothing is stopped: [`Refusal::PastHandover`] and [`Refusal::Moved`].
    pub fn stop(self: &Arc<Self>, forced: bool) -> Result<(), Refusal> {
        let mut inner = self.lock();
        match &inner.place {
            Place::Migrating { interrupt, .. } => match inner.place.past_handover(&inner.name) {
                Some(too_late) if !forced => return Err(too_late),
                Some(_) => inner.end = inner.end.take().or(Some(End::Stopped)),
                None => {
                    interrupt.raise();
                    inner.stop_wanted = true;
                }
            },
            // The guest goes on there, and this process ends by itself.
            Place::Moved { .. } if !forced && inner.end.is_none() => {
                return Err(inner.place.refusal(&inner.name));
            }
            Place::Arriving { .. } => {
                drop(inner);
                let end = GuestEnd { exit_code: 0, words: "its user stopped it".to_owned() };
                self.end_arriving(End::Stopped, end);
                return Ok(());
            }
            _ => inner.end = inner.end.take().or(Some(End::Stopped)),
        }
        drop(inner);
        self.changed.send_replace(());
        Ok(())
    }

    pub(super) fn finish(&self, end: End) {
        self.update(|inner| inner.end.get_or_insert(end).clone());
    }

    /// The source has heard that the guest ended.
    pub(super) fn ended_on_arrival(&self) {
        let end = self.lock().end_on_arrival.take();
        self.finish(end.unwrap_or(End::Stopped));
    }

    /// Ends a guest whose last pages are still coming: the source is told first, if it still listens.
    fn end_arriving(self: &Arc<Self>, end: End, says: GuestEnd) {
        let is_told = self.update(|inner| match &inner.place {
            Place::Arriving { end: notice, .. } => {
                notice.tell(says);
                inner.end_on_arrival = Some(end.clone());
                true
            }
            _ => false,
        });
        let daemon = self.clone();
        let finish = move || {
            if is_told {
                thread::sleep(SOURCE_HEARS_WITHIN);
            }
            daemon.finish(end);
        };
        // It waits for a source that does not read.
        if let Err(error) = thread::Builder::new().name("guest-end".to_owned()).spawn(finish) {
            tracing::error!(%error, "the process ends only with its source");
        }
    }

    /// Ends the process when the guest ends.
    pub(super) fn watch_guest(self: &Arc<Self>, handles: Handles) {
        let daemon = self.clone();
        let watch = move || {
            let Some(ending) = handles.wait_for_ending() else { return };
            if matches!(daemon.lock().place, Place::Arriving { .. }) {
                let says = GuestEnd { exit_code: ending.exit_code, words: ending.words.clone() };
                return daemon.end_arriving(End::Guest(ending), says);
            }
            daemon.update(|inner| {
                if let Place::Migrating { interrupt, .. } = &inner.place {
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
