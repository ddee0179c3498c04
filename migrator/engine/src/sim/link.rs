//! Links that fail when they are told to.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    pages::RunBytes,
    transport::{Acceptor, Connector, Interrupt, Wire},
};

/// How a link ends at a chosen message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The message is lost, and all links with it.
    Before,
    /// Half of the message arrives.
    Within,
    /// The message arrives, and nothing after it.
    After,
    /// One bit of the message is flipped; the links live on.
    Flip,
    /// The message is lost, and its link with it; the others live on.
    Lose,
    /// The message arrives, and whoever sent it is stopped for so long, as by SIGSTOP and SIGCONT; the links live on.
    Stop(Duration),
}

impl Cut {
    fn spares_links(self) -> bool {
        matches!(self, Cut::Flip | Cut::Lose | Cut::Stop(_))
    }
}

/// Counts the messages of one migration, over all links and both directions, and cuts at one.
#[derive(Debug, Default)]
pub struct Tally {
    messages: AtomicU64,
    cut: Option<(u64, Cut)>,
}

impl Tally {
    /// Cuts nothing.
    pub fn count_only() -> Arc<Tally> {
        Arc::default()
    }

    /// Cuts at the message numbered `at`, counted from 0.
    pub fn cut_at(at: u64, cut: Cut) -> Arc<Tally> {
        Arc::new(Tally { messages: AtomicU64::new(0), cut: Some((at, cut)) })
    }

    /// How many messages there were.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::SeqCst)
    }

    /// How the next message fares; `None` if well.
    fn next(&self) -> Option<Cut> {
        let number = self.messages.fetch_add(1, Ordering::SeqCst);
        match self.cut {
            Some((at, cut)) if number == at => Some(cut),
            // After the cut nothing passes, on any link.
            Some((at, cut)) if number > at && !cut.spares_links() => Some(Cut::Before),
            _ => None,
        }
    }
}

/// Gives out links, and wires for a destination, that fail by a tally.
pub struct FailingConnector<C> {
    inner: C,
    tally: Arc<Tally>,
}

impl<C> FailingConnector<C> {
    /// Over another connector or acceptor.
    pub fn new(inner: C, tally: &Arc<Tally>) -> FailingConnector<C> {
        FailingConnector { inner, tally: tally.clone() }
    }

    fn wrap(&self, wire: Box<dyn Wire>) -> Box<dyn Wire> {
        Box::new(FailingWire { inner: wire, tally: self.tally.clone() })
    }
}

impl<C: Connector> Connector for FailingConnector<C> {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        Ok(self.wrap(self.inner.connect(interrupt)?))
    }

    fn address(&self) -> String {
        self.inner.address()
    }
}

impl<A: Acceptor> Acceptor for FailingConnector<A> {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let wire = self.inner.accept(interrupt, timeout)?;
        Ok(self.wrap(wire))
    }
}

struct FailingWire {
    inner: Box<dyn Wire>,
    tally: Arc<Tally>,
}

impl FailingWire {
    /// The message in one piece, so that it can be spoilt.
    fn copied(head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> Vec<u8> {
        let mut bytes = head.to_vec();
        for run in payload {
            let from = bytes.len();
            bytes.resize(from + run.len(), 0);
            // SAFETY: the run is mapped for as long as it is borrowed; what the guest writes
            // meanwhile may be seen or not, as on a real link.
            unsafe { run.as_ptr().copy_to_nonoverlapping(bytes[from..].as_mut_ptr(), run.len()) };
        }
        bytes.extend_from_slice(tail);
        bytes
    }
}

impl Wire for FailingWire {
    fn send_parts(&mut self, head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()> {
        let cut = self.tally.next();
        match cut {
            None => return self.inner.send_parts(head, payload, tail),
            Some(Cut::Before | Cut::Lose) => {}
            Some(Cut::Stop(time)) => {
                self.inner.send_parts(head, payload, tail)?;
                std::thread::sleep(time);
                return Ok(());
            }
            Some(Cut::After) => self.inner.send_parts(head, payload, tail)?,
            Some(Cut::Within) => {
                let bytes = FailingWire::copied(head, payload, tail);
                self.inner.send(&bytes[..bytes.len() / 2])?;
            }
            Some(Cut::Flip) => {
                let mut bytes = FailingWire::copied(head, payload, tail);
                let place = bytes.len() * 2 / 3;
                bytes[place] ^= 0x10;
                return self.inner.send(&bytes);
            }
        }
        self.inner.hang_up();
        match cut {
            // The sender learns of it only by what does not come back.
            Some(Cut::After | Cut::Within) => Ok(()),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.receive(buffer)
    }

    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.receive_rest(buffer)
    }

    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()> {
        self.inner.receive_runs(runs)
    }

    fn set_patience(&mut self, patience: Option<Duration>) {
        self.inner.set_patience(patience);
    }

    fn set_deadline(&mut self, left: Option<Duration>) {
        self.inner.set_deadline(left);
    }

    fn set_peer_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_peer_timeout(timeout);
    }

    fn set_interrupt(&mut self, interrupt: &Interrupt) {
        self.inner.set_interrupt(interrupt);
    }

    fn ignore_interrupt(&mut self) {
        self.inner.ignore_interrupt();
    }

    fn hang_up(&self) {
        self.inner.hang_up();
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
