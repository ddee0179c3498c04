//! Links as they come in: each says which migration it belongs to and what it is for.

use std::{
    io,
    time::{Duration, Instant},
};

use super::ReceiveError;
use crate::{
    protocol::{GREETING_BYTES, Greeting, MigrationId, Offer, Role},
    report::in_words,
    transport::{Acceptor, Interrupt, Wire},
};

/// How long a caller may take to say who it is. Others wait behind it, so it is short.
pub(super) const GREETING_PATIENCE: Duration = Duration::from_secs(3);
/// How long a source may take to open its other links.
const LINKS_PATIENCE: Duration = Duration::from_secs(10);

/// The links that carry pages.
pub(super) struct DataLinks {
    pub bulk: Box<dyn Wire>,
    pub urgent: Option<Box<dyn Wire>>,
    pub network: Option<Box<dyn Wire>>,
}

/// Waits for somebody who wants to migrate. Strangers are answered and forgotten.
pub(super) fn accept_control<V>(
    acceptor: &mut dyn Acceptor,
    halt: &Interrupt,
) -> Result<(Box<dyn Wire>, MigrationId), ReceiveError<V>> {
    loop {
        let wire = acceptor.accept(halt, None).map_err(ReceiveError::Accept)?;
        if let Some((wire, greeting)) = greet(wire).filter(|(_, greeting)| greeting.role == Role::Control) {
            return Ok((wire, greeting.migration));
        }
    }
}

/// Waits for the migration's other links.
pub(super) fn accept_data<V>(
    acceptor: &mut dyn Acceptor,
    halt: &Interrupt,
    migration: MigrationId,
    offer: &Offer,
) -> Result<DataLinks, ReceiveError<V>> {
    let deadline = Instant::now() + LINKS_PATIENCE;
    let (mut bulk, mut urgent, mut network) = (None, None, None);
    while bulk.is_none()
        || (offer.may_miss_pages && urgent.is_none())
        || (offer.has_network && network.is_none())
    {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReceiveError::Accept(io::ErrorKind::TimedOut.into()));
        }
        let wire = acceptor.accept(halt, Some(left)).map_err(ReceiveError::Accept)?;
        match greet(wire) {
            Some((mut wire, greeting)) if greeting.migration == migration => {
                wire.set_patience(None);
                match greeting.role {
                    Role::Bulk => bulk = Some(wire),
                    Role::Urgent => urgent = Some(wire),
                    Role::Network => network = Some(wire),
                    Role::Control => {}
                }
            }
            _ => {}
        }
    }
    let bulk = bulk.ok_or_else(|| ReceiveError::Accept(io::ErrorKind::NotConnected.into()))?;
    Ok(DataLinks { bulk, urgent, network })
}

/// Exchanges greetings. Whoever is no Ferry of this version gets an answer that says who we are, and
/// is dropped.
pub(super) fn greet(mut wire: Box<dyn Wire>) -> Option<(Box<dyn Wire>, Greeting)> {
    wire.set_deadline(Some(GREETING_PATIENCE));
    let mut bytes = [0; GREETING_BYTES];
    let read = wire.receive(&mut bytes);
    let greeting = read
        .map_err(|error| in_words(&error))
        .and_then(|()| Greeting::decode(&bytes).map_err(|e| in_words(&e)));
    match greeting {
        Ok(greeting) => {
            wire.send(&greeting.encode()).ok()?;
            wire.set_deadline(None);
            Some((wire, greeting))
        }
        Err(reason) => {
            tracing::warn!(reason, "a caller was turned away");
            let ours = Greeting { migration: MigrationId::default(), role: Role::Control };
            // It may not want to hear it.
            wire.send(&ours.encode()).ok();
            None
        }
    }
}
