//! The guest's balloon: memory it is asked to do without.

use super::{Daemon, Place, Refusal};
use crate::{
    machine::{BalloonReport, Handles},
    shown::show_bytes,
};
use engine::pages::PAGE_SIZE;

impl Daemon {
    /// How much is in the guest's balloon, and how much is to be.
    ///
    /// # Errors
    /// If there is no guest here, or not any more, or it has no balloon.
    pub fn balloon(&self) -> Result<BalloonReport, Refusal> {
        let inner = self.lock();
        let name = inner.name.clone();
        match (&inner.place, inner.guest_here()) {
            (place @ (Place::Awaited { .. } | Place::Moved { .. }), _) => Err(place.refusal(&name)),
            // What is known of it here is old.
            (place @ Place::Migrating { .. }, _) if place.departed_to().is_some() => {
                Err(place.refusal(&name))
            }
            (_, handles) => handles.and_then(Handles::balloon).ok_or(Refusal::NoBalloon { name }),
        }
    }

    /// Asks the guest to have `bytes` in its balloon; it does so when it runs.
    ///
    /// # Errors
    /// If it is not here, is migrating (what it is told then might not come along), has no balloon, or has no such size.
    pub fn set_balloon(&self, bytes: u64) -> Result<BalloonReport, Refusal> {
        let name = self.name();
        self.with_machine_here(|machine, standing| {
            if let Some(refusal) = standing.refusal(&name, false) {
                return Err(refusal);
            }
            let handles = machine.handles();
            if handles.balloon().is_none() {
                return Err(Refusal::NoBalloon { name });
            }
            let memory_bytes = handles.page_count() * PAGE_SIZE as u64;
            if bytes >= memory_bytes {
                return Err(Refusal::Request(format!(
                    "{name} has {} of memory: {} cannot be taken from it",
                    show_bytes(memory_bytes),
                    show_bytes(bytes)
                )));
            }
            if !bytes.is_multiple_of(PAGE_SIZE as u64) {
                return Err(Refusal::Request(format!(
                    "a balloon of {bytes} bytes cannot be: it is made of pages of {PAGE_SIZE} bytes"
                )));
            }
            // A guest's pages are counted in 32 bits: it has 1 TiB at most.
            let pages = u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
            handles.set_balloon(pages).ok_or(Refusal::NoBalloon { name })
        })
    }
}
