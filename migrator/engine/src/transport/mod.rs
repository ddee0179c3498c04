//! Links between the two sides: byte streams that gather from guest memory and scatter into it.
//!
//! To add a transport, make something that yields a [`Wire`] when it connects and when it accepts;
//! [`tcp`] is the pattern. Nothing above this folder knows what it runs over.

mod address;
mod fd;
mod hang_up;
mod interface;
mod loss;
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

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use address::{Address, AddressError, DEFAULT_PORT};
pub use fd::FdWire;
pub(crate) use hang_up::{HangUp, LinkHandle};
pub use throttle::{Lane, Limit, Throttle};

use crate::pages::RunBytes;

/// How long a peer may acknowledge nothing, where nothing else is said.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(15);
/// The shortest such time: the kernel counts in seconds.
pub const MIN_PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a link leaves room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A guest runs meanwhile, and it and its clients need the processors, too: a little at a time.
    Considerate,
    /// The guest stands still until it is done.
    Hasty,
}

/// One link's bytes. Blocking; a wait ends early when the [`Interrupt`] is raised, when nothing moved
/// for longer than the patience allows, or at the deadline, however much moves.
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

    /// Fills `buffer` with the rest of a message that has begun to come. An interrupt cuts it only after
    /// a moment: the message may be the reason why the migration ends.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills the runs, straight into guest memory.
    ///
    /// # Errors
    /// As [`Wire::receive`].
    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()>;

    /// How long nothing may move before a wait fails; `None` waits as long as the link lives.
    fn set_patience(&mut self, patience: Option<Duration>);

    /// How long all that follows may take, until this is called again: a peer that moves one byte now and
    /// then never exhausts the patience. `None` sets no limit.
    fn set_deadline(&mut self, left: Option<Duration>);

    /// How long a peer may acknowledge nothing before it counts as gone, as one does whose host lost power; `None` waits
    /// for ever. A link that has no such peer ignores it.
    fn set_peer_timeout(&mut self, timeout: Option<Duration>);

    /// From here on this interrupt ends waits, and no longer the one that the link was made with.
    fn set_interrupt(&mut self, interrupt: &Interrupt);

    /// From here on the interrupt means nothing to this link: what is sent now must arrive.
    fn ignore_interrupt(&mut self);

    /// Sets its pace, [`Pace::Considerate`] at first. A link that knows only one keeps it.
    fn set_pace(&mut self, _pace: Pace) {}

    /// From here on nothing on this side ends the link: no interrupt, no timeout and no keep-alive. For what another host
    /// depends on, and what a network that comes back can still carry.
    fn outlast(&mut self) {
        self.ignore_interrupt();
        self.set_patience(None);
        self.set_deadline(None);
        self.set_peer_timeout(None);
    }

    /// Whether the peer has ended the link, seen without reading what it said before.
    fn has_ended(&self) -> bool {
        self.polls(PollFlags::RDHUP)
    }

    /// Whether something can be received, be it the end, without waiting.
    fn has_input(&self) -> bool {
        self.polls(PollFlags::IN | PollFlags::RDHUP)
    }

    /// Whether a look at the socket finds one of `events`, its end or an error.
    fn polls(&self, events: PollFlags) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.as_fd(), events)];
        let found = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok();
        found && fds[0].revents().intersects(events | PollFlags::HUP | PollFlags::ERR)
    }

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

    /// The [`Wire::set_peer_timeout`] of links accepted from here on. Only links to other hosts need it.
    fn set_peer_timeout(&mut self, _timeout: Duration) {}
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
