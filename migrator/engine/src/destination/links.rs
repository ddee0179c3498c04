//! Links as they come in: each says which migration it belongs to and what it is for.

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    protocol::{GREETING_BYTES, Greeting, MigrationId, Role},
    report::in_words,
    transport::Wire,
};

/// How long a caller may take to say who it is.
pub(super) const GREETING_PATIENCE: Duration = Duration::from_secs(3);

/// The links that carry pages.
pub(super) struct DataLinks {
    pub bulk: Box<dyn Wire>,
    pub urgent: Option<Box<dyn Wire>>,
    pub network: Option<Box<dyn Wire>>,
}

/// Whether the peer has ended a link, or is known to be gone. What it said before that can still be received.
pub(super) fn is_ended(link: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(link, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Exchanges greetings. Returns the caller's, with what both sides can do. One without a version in common gets an answer
/// that says who is here, and is dropped.
pub(super) fn greet(mut wire: Box<dyn Wire>) -> Option<(Box<dyn Wire>, Greeting)> {
    wire.set_deadline(Some(GREETING_PATIENCE));
    match receive_greeting(&mut *wire) {
        Some(greeting) => {
            wire.send(&Greeting::new(greeting.migration, greeting.role).encode()).ok()?;
            wire.set_deadline(None);
            Some((wire, greeting))
        }
        None => {
            let ours = Greeting::new(MigrationId::default(), Role::Control);
            // It may not want to hear it.
            wire.send(&ours.encode()).ok();
            None
        }
    }
}

/// The caller's greeting. One that is none is told to the log; one that did not come is nobody's business: there may be
/// hundreds.
fn receive_greeting(wire: &mut dyn Wire) -> Option<Greeting> {
    let mut bytes = [0; GREETING_BYTES];
    if let Err(error) = wire.receive(&mut bytes) {
        tracing::debug!(error = in_words(&error), "a caller said nothing");
        return None;
    }
    let greeting = Greeting::decode(&bytes)
        .and_then(|greeting| Ok(Greeting { capabilities: greeting.agreed()?, ..greeting }));
    greeting.inspect_err(|error| tracing::warn!(reason = in_words(error), "a caller was turned away")).ok()
}
