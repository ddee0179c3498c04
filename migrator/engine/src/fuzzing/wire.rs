//! A link whose other end has said everything beforehand.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{
    pages::RunBytes,
    protocol::GREETING_BYTES,
    transport::{Interrupt, Wire},
};

/// What this side said, kept up to a limit.
pub(super) type Said = Arc<Mutex<Vec<u8>>>;
const MAX_KEPT_BYTES: usize = 1 << 16;

/// Yields given bytes, and then the end.
pub(super) struct ScriptWire {
    bytes: Vec<u8>,
    at: usize,
    said: Said,
    /// The first words that are sent come back first, as a greeting does.
    echoes: bool,
    /// Readable once the link's end may be seen.
    ended: Arc<OwnedFd>,
    /// Readable once this link is dropped.
    ends: Option<Arc<OwnedFd>>,
}

impl ScriptWire {
    pub fn new(bytes: Vec<u8>) -> ScriptWire {
        static READABLE: OnceLock<Arc<OwnedFd>> = OnceLock::new();
        let ended = READABLE.get_or_init(|| event(1)).clone();
        ScriptWire { bytes, at: 0, said: Said::default(), echoes: false, ended, ends: None }
    }

    /// Answers a greeting by the same words.
    pub fn that_greets(bytes: Vec<u8>) -> ScriptWire {
        let mut wire = ScriptWire::new(bytes);
        wire.echoes = true;
        wire
    }

    /// Its end is not seen before `other` is dropped.
    pub fn ends_with(mut self, other: &mut ScriptWire) -> ScriptWire {
        self.ended = other.ends.get_or_insert_with(|| event(0)).clone();
        self
    }

    /// What is said on it.
    pub fn said(&self) -> Said {
        self.said.clone()
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let bytes = self.bytes.get(self.at..self.at + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at += length;
        Ok(bytes)
    }
}

fn event(value: u32) -> Arc<OwnedFd> {
    Arc::new(eventfd(value, EventfdFlags::CLOEXEC).expect("an eventfd"))
}

impl Wire for ScriptWire {
    fn send_parts(&mut self, head: &[u8], _: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()> {
        if std::mem::take(&mut self.echoes) {
            assert_eq!(head.len(), GREETING_BYTES, "a link begins with a greeting");
            self.bytes.splice(self.at..self.at, head.iter().copied());
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MAX_KEPT_BYTES {
            said.extend(head);
            said.extend(tail);
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(self.take(buffer.len())?);
        Ok(())
    }

    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.receive(buffer)
    }

    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()> {
        for run in runs {
            let bytes = self.take(run.len())?;
            // SAFETY: a run's bytes may be written, by the promise that it was made with.
            unsafe { run.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        Ok(())
    }

    fn set_patience(&mut self, _: Option<Duration>) {}

    fn set_deadline(&mut self, _: Option<Duration>) {}

    fn set_peer_timeout(&mut self, _: Option<Duration>) {}

    fn set_interrupt(&mut self, _: &Interrupt) {}

    fn ignore_interrupt(&mut self) {}

    fn hang_up(&self) {}

    fn as_fd(&self) -> BorrowedFd<'_> {
        static READABLE: OnceLock<Arc<OwnedFd>> = OnceLock::new();
        match self.at < self.bytes.len() {
            true => READABLE.get_or_init(|| event(1)).as_fd(),
            false => self.ended.as_fd(),
        }
    }
}

impl Drop for ScriptWire {
    fn drop(&mut self) {
        if let Some(ends) = &self.ends {
            rustix::io::write(ends, &1u64.to_ne_bytes()).expect("an eventfd takes a 1");
        }
    }
}
