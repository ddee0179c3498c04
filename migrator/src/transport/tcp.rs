//! TCP.

use std::{
    io, mem,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};
use socket2::{Domain, Socket, Type};

use super::{Acceptor, Connector, FdWire, Interrupt, PEER_TIMEOUT, Wire};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest round trip to a neighbour.
const NEAR: Duration = Duration::from_millis(5);
/// Ways to avoid congestion that go by what is lost and keep no pace, the usual one first.
const UNPACED: [&str; 2] = ["cubic", "reno"];
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Connects to `HOST:PORT`.
pub struct TcpConnector {
    host_and_port: String,
    /// Whether a neighbour is there, as the first connection found.
    near: OnceLock<bool>,
}

impl TcpConnector {
    /// To `HOST:PORT`, looked up anew at each connection.
    pub fn new(host_and_port: &str) -> TcpConnector {
        TcpConnector { host_and_port: host_and_port.to_owned(), near: OnceLock::new() }
    }

    fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        if self.near.get() == Some(&true) {
            return connect_to_neighbour(address);
        }
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        self.near.get_or_init(|| round_trip(&stream).is_some_and(|round_trip| round_trip <= NEAR));
        Ok(stream)
    }
}

/// Connects to a host so near that a sender need not pace itself: one that does, as the host's own congestion control may,
/// sets a timer for every few segments, and at gigabytes a second those cost more than the copying.
///
/// # Errors
/// Whatever the system says. A host that permits no other congestion control than its own is no error.
pub fn connect_to_neighbour(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Before it connects: once a pace has begun, another algorithm keeps it.
    if !UNPACED.iter().any(|name| sockopt::set_tcp_congestion(&socket, name).is_ok()) {
        tracing::debug!("a link keeps the host's congestion control");
    }
    socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
    Ok(socket.into())
}

impl Connector for TcpConnector {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.host_and_port.to_socket_addrs()? {
            match self.open(address) {
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
    peer_timeout: Duration,
}

impl TcpAcceptor {
    /// Listens; port 0 takes any that is free.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn bind(host_and_port: &str) -> io::Result<TcpAcceptor> {
        let listener = TcpListener::bind(host_and_port)?;
        listener.set_nonblocking(true)?;
        Ok(TcpAcceptor { listener, peer_timeout: PEER_TIMEOUT })
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
        let mut wire = wire(stream, interrupt)?;
        wire.set_peer_timeout(Some(self.peer_timeout));
        Ok(wire)
    }

    fn set_peer_timeout(&mut self, timeout: Duration) {
        self.peer_timeout = timeout;
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
    let mut wire = FdWire::new(stream.into(), interrupt)?;
    // A host that vanished is noticed although nobody waits on this link with a limit.
    wire.set_peer_timeout(Some(PEER_TIMEOUT));
    Ok(Box::new(wire))
}

/// How long a round trip over a connection takes, if the kernel tells.
fn round_trip(stream: &TcpStream) -> Option<Duration> {
    let micros = info(stream.as_fd())?.tcpi_rtt;
    (micros > 0).then(|| Duration::from_micros(micros.into()))
}

/// What the kernel tells of a TCP socket, if it does.
pub fn info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    // SAFETY: all of its fields are numbers.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let told = unsafe {
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut info).cast(), &raw mut len)
    };
    (told == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_neighbour_keeps_no_pace() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = connect_to_neighbour(listener.local_addr().unwrap()).unwrap();
        let found = sockopt::tcp_congestion(&link).unwrap();
        assert!(UNPACED.contains(&found.as_str()), "{found}");
    }
}
