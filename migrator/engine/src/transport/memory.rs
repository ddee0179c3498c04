//! Links within one process, for tests: the two ends of socket pairs, handed over a channel.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use super::{Acceptor, Connector, FdWire, Interrupt, Wire};

/// A connector and the acceptor that it reaches.
pub fn pair() -> (MemoryConnector, MemoryAcceptor) {
    let (sender, receiver) = channel();
    (MemoryConnector { sender }, MemoryAcceptor { receiver })
}

/// Connects within the process.
pub struct MemoryConnector {
    sender: Sender<UnixStream>,
}

impl Connector for MemoryConnector {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        let (here, there) = UnixStream::pair()?;
        self.sender.send(there).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(FdWire::new(here.into(), interrupt)?))
    }

    fn address(&self) -> String {
        "memory".to_owned()
    }
}

/// Accepts within the process.
pub struct MemoryAcceptor {
    receiver: Receiver<UnixStream>,
}

impl Acceptor for MemoryAcceptor {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let start = Instant::now();
        loop {
            match self.receiver.recv_timeout(Duration::from_millis(5)) {
                Ok(stream) => return Ok(Box::new(FdWire::new(stream.into(), interrupt)?)),
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::ConnectionAborted.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if interrupt.is_raised() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}
