//! Unix sockets: two processes on one host, without the network stack between them.

use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Acceptor, Connector, FdWire, Interrupt, Wire, tcp::accept_next};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

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
        Ok(Box::new(FdWire::new(dial(&self.path, interrupt)?.into(), interrupt)?))
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

/// Connects; a listener whose queue is full makes others wait, but not for ever.
fn dial(path: &Path, interrupt: &Interrupt) -> io::Result<Socket> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    loop {
        match socket.connect(&SockAddr::unix(path)?) {
            Ok(()) => break,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if interrupt.is_raised() => return Err(io::ErrorKind::Interrupted.into()),
            Err(_) if Instant::now() >= deadline => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from who listens there"));
            }
            Err(_) => thread::sleep(TICK),
        }
    }
    socket.set_nonblocking(false)?;
    Ok(socket)
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
