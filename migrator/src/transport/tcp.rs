//! TCP.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};

use super::{Acceptor, Connector, FdWire, Interrupt, Wire};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the peer counts as gone.
const DEAD_AFTER: Duration = Duration::from_secs(15);
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Connects to `HOST:PORT`.
pub struct TcpConnector {
    host_and_port: String,
}

impl TcpConnector {
    /// To `HOST:PORT`, looked up anew at each connection.
    pub fn new(host_and_port: &str) -> TcpConnector {
        TcpConnector { host_and_port: host_and_port.to_owned() }
    }
}

impl Connector for TcpConnector {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.host_and_port.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return wire(stream, interrupt),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn address(&self) -> String {
        format!("tcp://{}", self.host_and_port)
    }
}

/// Listens on `HOST:PORT`.
pub struct TcpAcceptor {
    listener: TcpListener,
}

impl TcpAcceptor {
    /// Listens; port 0 takes any that is free.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn bind(host_and_port: &str) -> io::Result<TcpAcceptor> {
        let listener = TcpListener::bind(host_and_port)?;
        listener.set_nonblocking(true)?;
        Ok(TcpAcceptor { listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Acceptor for TcpAcceptor {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let (stream, _) = accept_next(&self.listener, interrupt, timeout, || self.listener.accept())?;
        stream.set_nonblocking(false)?;
        wire(stream, interrupt)
    }
}

/// Accepts the next connection. One that ended before it was accepted is none.
pub(super) fn accept_next<T>(
    fd: &impl AsFd,
    interrupt: &Interrupt,
    timeout: Option<Duration>,
    accept: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    loop {
        wait_readable(fd, interrupt, timeout)?;
        match accept() {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            accepted => return accepted,
        }
    }
}

/// Waits until a listener has a connection to accept.
fn wait_readable(fd: &impl AsFd, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&TICK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if interrupt.is_raised() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn wire(stream: TcpStream, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
    // Messages are small and each is waited for.
    stream.set_nodelay(true)?;
    // A host that vanished is noticed although nobody waits on this link with a limit.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&stream, 2)?;
    sockopt::set_tcp_user_timeout(&stream, DEAD_AFTER.as_millis() as u32)?;
    Ok(Box::new(FdWire::new(stream.into(), interrupt)?))
}
