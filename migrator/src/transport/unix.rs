//! Unix sockets: two processes on one host, without the network stack between them.

use std::{
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Acceptor, Connector, FdWire, Interrupt, Wire, tcp::accept_next};

/// Connects to a socket in the file system.
pub struct UnixConnector {
    path: PathBuf,
}

impl UnixConnector {
    /// To the socket at `path`.
    pub fn new(path: &Path) -> UnixConnector {
        UnixConnector { path: path.to_owned() }
    }
}

impl Connector for UnixConnector {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(FdWire::new(UnixStream::connect(&self.path)?.into(), interrupt)?))
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

/// Listens on a socket in the file system, and removes it when dropped.
pub struct UnixAcceptor {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixAcceptor {
    /// Listens.
    ///
    /// # Errors
    /// Whatever the system says; the path must not exist.
    pub fn bind(path: &Path) -> io::Result<UnixAcceptor> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(UnixAcceptor { listener, path: path.to_owned() })
    }
}

impl Acceptor for UnixAcceptor {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let (stream, _) = accept_next(&self.listener, interrupt, timeout, || self.listener.accept())?;
        stream.set_nonblocking(false)?;
        Ok(Box::new(FdWire::new(stream.into(), interrupt)?))
    }
}

impl Drop for UnixAcceptor {
    fn drop(&mut self) {
        // Already gone is as good.
        std::fs::remove_file(&self.path).ok();
    }
}
