//! TCP.

use std::{
    io, mem,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{OnceLock, mpsc::channel},
    thread,
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
/// The same where the name has other addresses to try.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long looking a name up may take, and trying all of its addresses.
const ALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest round trip to a neighbour, whose network hardly loses anything.
const NEAR: Duration = Duration::from_millis(1);
/// The shortest round trip that needs more room in flight than the kernel gives.
const FAR: Duration = Duration::from_millis(10);
/// What a far link may have in flight, as the kernel counts: about 2 Gbit/s at 50 ms.
const FAR_SEND_BUFFER_BYTES: usize = 16 << 20;
/// Ways to avoid congestion that go by what is lost and keep no pace, the usual one first.
const UNPACED: [&str; 2] = ["cubic", "reno"];
const TICK: Duration = Duration::from_millis(20);
const POLL_TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Connects to `HOST:PORT`.
pub struct TcpConnector {
    host_and_port: String,
    /// What the first connection reached. All others go there, whatever else the name means.
    reached: OnceLock<Reached>,
}

struct Reached {
    address: SocketAddr,
    /// How long a round trip to there takes.
    round_trip: Option<Duration>,
}

impl TcpConnector {
    /// To `HOST:PORT`, looked up at the first connection.
    pub fn new(host_and_port: &str) -> TcpConnector {
        TcpConnector { host_and_port: host_and_port.to_owned(), reached: OnceLock::new() }
    }

    /// Connects. Returns also the host's own congestion control, if the connection has another.
    fn open(&self, interrupt: &Interrupt) -> io::Result<(TcpStream, Option<String>)> {
        match self.reached.get() {
            Some(&Reached { address, round_trip: Some(round_trip) }) if round_trip <= NEAR => {
                connect_unpaced(address, interrupt)
            }
            Some(&Reached { address, round_trip }) => {
                let socket = new_socket(address)?;
                if round_trip.is_some_and(|round_trip| round_trip >= FAR) {
                    make_room(&socket);
                }
                Ok((dial(socket, address, CONNECT_TIMEOUT, interrupt)?, None))
            }
            None => {
                let (stream, address) = connect_first(&look_up(&self.host_and_port, interrupt)?, interrupt)?;
                self.reached.get_or_init(|| Reached { address, round_trip: round_trip(&stream) });
                Ok((stream, None))
            }
        }
    }
}

/// Makes room for what is on a long way, unacknowledged. By itself the kernel keeps no more than 4 MiB, which with what
/// it counts beside the bytes is less than half of a gigabit a second at 50 ms. Only root may have more: asked for by others
/// it would be less, and never grow.
fn make_room(socket: &Socket) {
    if let Err(error) = sockopt::set_socket_send_buffer_size_force(socket, FAR_SEND_BUFFER_BYTES) {
        tracing::info!(%error, "a far link keeps its small send buffer: raise the sysctl net.ipv4.tcp_wmem");
    }
}

/// Connects to the first of the addresses that answers.
fn connect_first(addresses: &[SocketAddr], interrupt: &Interrupt) -> io::Result<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + ALL_TIMEOUT;
    let mut tried = Vec::new();
    for (&address, others) in addresses.iter().zip((0..addresses.len()).rev()) {
        let left = deadline.saturating_duration_since(Instant::now());
        // One that is dead must not take the time of those behind it.
        let longest = if others > 0 { TRY_TIMEOUT } else { CONNECT_TIMEOUT };
        let timeout = longest.min(left / (others as u32 + 1));
        match new_socket(address).and_then(|socket| dial(socket, address, timeout, interrupt)) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => tried.push((address, error)),
        }
    }
    Err(none_answered(tried))
}

/// What each address came to.
fn none_answered(mut tried: Vec<(SocketAddr, io::Error)>) -> io::Error {
    if tried.len() == 1 {
        return tried.remove(0).1;
    }
    let Some((_, last)) = tried.last() else {
        return io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    };
    let kind = last.kind();
    let each: Vec<String> = tried.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    io::Error::new(kind, format!("tried {}", each.join("; ")))
}

/// What a host's name means. On a thread of its own: a name server that is silent cannot be interrupted.
fn look_up(host_and_port: &str, interrupt: &Interrupt) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = host_and_port_of(host_and_port)?;
    let (sender, answer) = channel();
    let look_up = move || sender.send((host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    thread::Builder::new().name("look-up".to_owned()).spawn(look_up)?;
    let begin = Instant::now();
    loop {
        match answer.recv_timeout(TICK) {
            Ok(found) => {
                let mut addresses = Vec::new();
                found?.into_iter().for_each(|address| {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                });
                return Ok(addresses);
            }
            Err(_) if interrupt.is_raised() => return Err(io::ErrorKind::Interrupted.into()),
            Err(_) if begin.elapsed() >= ALL_TIMEOUT => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to what the name means"));
            }
            Err(_) => {}
        }
    }
}

/// `[fe80::1%eth0]:7800` as the system wants it: without brackets.
fn host_and_port_of(text: &str) -> io::Result<(String, u16)> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or(io::ErrorKind::InvalidInput)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok((bare.to_owned(), port))
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, None)
}

/// Connects a socket, and blocks from then on.
fn dial(
    socket: Socket,
    address: SocketAddr,
    timeout: Duration,
    interrupt: &Interrupt,
) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    while poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&POLL_TICK)).is_ok_and(|ready| ready == 0) {
        if interrupt.is_raised() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if Instant::now() >= deadline {
            let words = format!("no answer for {:.1} s", timeout.as_secs_f64());
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // A poll that a signal cut short has told nothing yet.
    socket.peer_addr()?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Connects to a host so near that a sender need not pace itself: one that does, as the host's own congestion control may,
/// sets a timer for every few segments, and at gigabytes a second those cost more than the copying.
///
/// # Errors
/// Whatever the system says. A host that permits no other congestion control than its own is no error.
pub fn connect_to_neighbour(address: SocketAddr) -> io::Result<TcpStream> {
    Ok(connect_unpaced(address, &Interrupt::default())?.0)
}

fn connect_unpaced(address: SocketAddr, interrupt: &Interrupt) -> io::Result<(TcpStream, Option<String>)> {
    let socket = new_socket(address)?;
    let own = sockopt::tcp_congestion(&socket).ok().filter(|own| !UNPACED.contains(&own.as_str()));
    // Before it connects: once a pace has begun, another algorithm keeps it.
    if !UNPACED.iter().any(|name| sockopt::set_tcp_congestion(&socket, name).is_ok()) {
        tracing::debug!("a link keeps the host's congestion control");
    }
    Ok((dial(socket, address, CONNECT_TIMEOUT, interrupt)?, own))
}

impl Connector for TcpConnector {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        let (stream, own) = self.open(interrupt)?;
        let mut wire = wire(stream, interrupt)?;
        if let Some(own) = own {
            wire.watch_loss(own);
        }
        Ok(Box::new(wire))
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
        let listener = TcpListener::bind(host_and_port_of(host_and_port)?)?;
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
        Ok(Box::new(wire))
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
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&POLL_TICK)) {
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

fn wire(stream: TcpStream, interrupt: &Interrupt) -> io::Result<FdWire> {
    // Messages are small and each is waited for.
    stream.set_nodelay(true)?;
    let mut wire = FdWire::new(stream.into(), interrupt)?;
    // A host that vanished is noticed although nobody waits on this link with a limit.
    wire.set_peer_timeout(Some(PEER_TIMEOUT));
    Ok(wire)
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

    fn live() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that does not answer: its listener's queue is full. Lives as long as what is returned.
    fn silent() -> (Socket, Vec<Socket>, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let fill = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&address).ok();
            socket
        };
        let full = (0..4).map(|_| fill()).collect();
        (listener, full, address.as_socket().unwrap())
    }

    fn refusing() -> SocketAddr {
        live().1
    }

    #[test]
    fn entry_21_dead_addresses_are_left_for_one_that_answers() {
        let (_listener, answering) = live();
        let (_silent, _full, dead) = silent();
        let begin = Instant::now();
        let (_, reached) = connect_first(&[refusing(), dead, answering], &Interrupt::default()).unwrap();
        assert_eq!(reached, answering);
        assert!(begin.elapsed() < ALL_TIMEOUT, "{:?}", begin.elapsed());
    }

    #[test]
    fn entry_21_those_that_were_tried_are_named() {
        let (_silent, _full, dead) = silent();
        let refusing = refusing();
        let error = connect_first(&[dead, refusing], &Interrupt::default()).unwrap_err().to_string();
        let named = [format!("{dead}: no answer"), format!("{refusing}: Connection refused")];
        assert!(named.iter().all(|words| error.contains(words)), "{error}");
    }

    #[test]
    fn entry_21_all_links_go_to_the_address_that_the_first_one_reached() {
        let (listener, answering) = live();
        let connector = TcpConnector::new("a-name-that-means-nothing.invalid:1");
        connector.reached.get_or_init(|| Reached { address: answering, round_trip: None });
        connector.connect(&Interrupt::default()).unwrap();
        listener.accept().unwrap();
        let (_listener, answering) = live();
        let connector = TcpConnector::new(&answering.to_string());
        connector.connect(&Interrupt::default()).unwrap();
        assert_eq!(connector.reached.get().unwrap().address, answering);
    }

    #[test]
    fn entry_10_a_cancel_is_heeded_while_a_connection_is_made() {
        let (_silent, _full, dead) = silent();
        let interrupt = Interrupt::default().child(Some(Instant::now() + Duration::from_millis(100)));
        let begin = Instant::now();
        let error = connect_first(&[dead], &interrupt).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(begin.elapsed() < CONNECT_TIMEOUT / 2, "{:?}", begin.elapsed());
    }

    #[test]
    fn entry_26_a_far_link_has_room_for_what_is_in_flight() {
        let (listener, answering) = live();
        let connector = TcpConnector::new("a-name-that-means-nothing.invalid:1");
        connector.reached.get_or_init(|| Reached { address: answering, round_trip: Some(FAR * 5) });
        let link = connector.connect(&Interrupt::default()).unwrap();
        let room = sockopt::socket_send_buffer_size(link.as_fd()).unwrap();
        // An ordinary user may not ask for it, and the kernel goes on growing it by itself.
        let may_ask = {
            let socket = new_socket(answering).unwrap();
            sockopt::set_socket_send_buffer_size_force(&socket, 1 << 20).is_ok()
        };
        let least = if may_ask {
            FAR_SEND_BUFFER_BYTES
        } else {
            sockopt::socket_send_buffer_size(&listener).unwrap()
        };
        assert!(room >= least, "{room}");
    }
}
