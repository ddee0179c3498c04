//! What is asked of the guest. All of this may wait: for the guest, or for a page that is still missing.

use super::{Daemon, Place, Refusal, Standing};
use crate::machine::{CheckReport, GuestReport, Handles};

impl Daemon {
    /// What the guest says of itself; gaps that ended before `since_tsc` do not count as longest.
    pub fn guest(&self, since_tsc: u64) -> GuestReport {
        let handles = self.lock().guest_here().cloned();
        let report = handles.and_then(|handles| handles.guest_report(since_tsc).ok());
        let report = report.unwrap_or_else(GuestReport::unavailable);
        if report.available {
            let mut inner = self.lock();
            inner.facts.is_booting &= !report.ready;
            // One whose source did not say what it is is known by what it says itself.
            let name = guest_name(&inner.facts.kind);
            inner.facts.image.get_or_insert_with(|| name.to_owned());
        }
        report
    }

    /// Looks whether a guest that was booting is ready by now.
    pub fn refresh_booting(&self) {
        if self.lock().facts.is_booting {
            self.guest(0);
        }
    }

    /// Has the guest check all of its memory.
    ///
    /// # Errors
    /// If it does not run here, or does not answer.
    pub fn check(&self) -> Result<CheckReport, Refusal> {
        let handles = self.running_guest()?;
        Ok(handles.check()?)
    }

    /// Types into the guest's console. Returns how many bytes were taken: those that it will read, here or where it goes.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let inner = self.lock();
        let handles = inner.handles.as_ref().filter(|_| inner.place.takes_typing());
        handles.map_or(0, |handles| handles.type_in(bytes))
    }

    fn running_guest(&self) -> Result<Handles, Refusal> {
        let inner = self.lock();
        let name = inner.name.clone();
        match (&inner.place, inner.guest_here()) {
            (
                Place::Arriving { standing: Standing::Running, .. }
                | Place::Here { standing: Standing::Running, .. },
                Some(handles),
            ) => Ok(handles.clone()),
            (
                Place::Arriving { standing: Standing::Paused, .. }
                | Place::Here { standing: Standing::Paused, .. },
                _,
            ) => Err(Refusal::Paused { name }),
            (Place::Here { standing, .. }, _) => {
                Err(standing.refusal(&name, false).unwrap_or(Refusal::InDoubt))
            }
            (place, _) => Err(place.refusal(&name)),
        }
    }
}

/// The guest that reports on a machine of this kind.
fn guest_name(kind: &str) -> &'static str {
    if kind == engine::sim::KIND { "sim" } else { "pulse" }
}
