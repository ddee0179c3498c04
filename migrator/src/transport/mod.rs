//! Links between the two sides: byte streams that gather from guest memory and scatter into it.
//!
//! To add a transport, make something that yields a [`Wire`] when it connects and when it accepts;
//! [`tcp`] is the pattern. Nothing above this folder knows what it runs over.

mod fd;
mod hang_up;
pub mod memory;
pub mod tcp;
mod throttle;
pub mod unix;

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use fd::FdWire;
pub(crate) use hang_up::HangUp;
pub use throttle::Throttle;

use crate::pages::RunBytes;

/// Whether a link leaves room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A guest runs meanwhile, and it and its clients need the processors, too: a little at a time.
    Considerate,
    /// The guest stands still until it is done.
    Hasty,
}

/// One link's bytes. Blocking; a wait ends early when the [`Interrupt`] is raised or nothing moved
/// for longer than the patience allows.
pub trait Wire: Send {
    /// Sends `head`, then the payload, straight from guest memory, then `tail`, as one message.
    ///
    /// # Errors
    /// Whatever the system says; [`io::ErrorKind::Interrupted`] if interrupted,
    /// [`io::ErrorKind::TimedOut`] if patience ran out.
    fn send_parts(&mut self, head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()>;

    /// As [`Wire::send_parts`], with no payload.
    ///
    /// # Errors
    /// As there.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_parts(bytes, &[], &[])
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// As [`Wire::send`]; [`io::ErrorKind::UnexpectedEof`] if the peer closed the link.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills `buffer` with the rest of a message that has begun to come: an interrupt does not cut it,
    /// for the link must stay of use for last words.
    ///
    /// # Errors
    /// As [`Wire::receive`], but for the interrupt.
    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills the runs, straight into guest memory.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()>;

    /// How long nothing may move before a wait fails; `None` waits as long as the link lives.
    fn set_patience(&mut self, patience: Option<Duration>);

    /// From here on this interrupt ends waits, and no longer the one that the link was made with.
    fn set_interrupt(&mut self, interrupt: &Interrupt);

    /// From here on the interrupt means nothing to this link: what is sent now must arrive.
    fn ignore_interrupt(&mut self);

    /// Sets its pace, [`Pace::Considerate`] at first. A link that knows only one keeps it.
    fn set_pace(&mut self, _pace: Pace) {}

    /// Ends the link in both directions: whoever waits on it, on either side, is woken.
    fn hang_up(&self);

    /// To poll for something to receive.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// Opens links to a destination.
pub trait Connector: Send + Sync {
    /// Opens one more.
    ///
    /// # Errors
    /// Whatever the system says.
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>>;

    /// Where it connects to, as the user wrote it.
    fn address(&self) -> String;
}

/// Accepts links from a source.
pub trait Acceptor: Send {
    /// Waits for the next one, at most `timeout`.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>>;
}

/// Raised once, by hand or by a deadline, and seen by every wait within a tick: how a migration is
/// cancelled.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    raised: AtomicBool,
    deadline: Option<Instant>,
    parent: Option<Interrupt>,
}

impl Interrupt {
    /// One that is raised with this one, or by itself, or at `deadline`.
    pub fn child(&self, deadline: Option<Instant>) -> Interrupt {
        Interrupt(Arc::new(Flags { raised: AtomicBool::new(false), deadline, parent: Some(self.clone()) }))
    }

    /// Raises it. It cannot be lowered.
    pub fn raise(&self) {
        self.0.raised.store(true, Ordering::Release);
    }

    /// Whether it was raised, by hand or by time.
    pub fn is_raised(&self) -> bool {
        self.is_raised_by_hand() || self.is_past_deadline()
    }

    /// Whether its deadline, or a parent's, has passed.
    pub fn is_past_deadline(&self) -> bool {
        self.0.deadline.is_some_and(|deadline| Instant::now() >= deadline)
            || self.0.parent.as_ref().is_some_and(Interrupt::is_past_deadline)
    }

    fn is_raised_by_hand(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
            || self.0.parent.as_ref().is_some_and(Interrupt::is_raised_by_hand)
    }
}

/// A place to migrate to or to receive at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `tcp://HOST:PORT`
    Tcp(String),
    /// `unix:///PATH`
    Unix(std::path::PathBuf),
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no address: write tcp://HOST:PORT or unix:///PATH")]
pub struct AddressError(String);

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Address::Unix(path.into()));
        }
        let rest = text.strip_prefix("tcp://").ok_or_else(wrong)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Address::Tcp(rest.to_owned()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(host_and_port) => write!(f, "tcp://{host_and_port}"),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Address {
    /// A connector to this place.
    pub fn connector(&self) -> Box<dyn Connector> {
        match self {
            Address::Tcp(host_and_port) => Box::new(tcp::TcpConnector::new(host_and_port)),
            Address::Unix(path) => Box::new(unix::UnixConnector::new(path)),
        }
    }

    /// Listens at this place.
    ///
    /// # Errors
    /// Whatever the system says, a port in use above all.
    pub fn listen(&self) -> io::Result<(Box<dyn Acceptor>, Address)> {
        match self {
            Address::Tcp(host_and_port) => {
                let acceptor = tcp::TcpAcceptor::bind(host_and_port)?;
                let bound = Address::Tcp(acceptor.local_address()?.to_string());
                Ok((Box::new(acceptor), bound))
            }
            Address::Unix(path) => Ok((Box::new(unix::UnixAcceptor::bind(path)?), self.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["tcp://127.0.0.1:7800", "tcp://[::1]:7800", "tcp://host.example:1", "unix:///run/x.sock"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "7800", "tcp://", "tcp://host", "tcp://:7", "tcp://h:99999", "unix://x", "http://h:80"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.to_owned())));
        }
    }
}
