//! HTTP requests over one long-lived connection.
//!
//! ```text
//!   Connected ──(reset, or what came is no HTTP)──► Down ──(a moment later)──► Connecting ──► Connected
//!                                                    ▲                            │
//!                                                    └──────────(refused)─────────┘
//! ```
//! Requests that are due while there is no connection are lost, and those that a broken one had not answered.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use super::{
    ProbeError,
    http::{Malformed, Responses},
    record::Record,
    socket::{self, NO_SIGNAL},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: guest\r\n\r\n";
/// How many are given to the kernel by one call at most.
const AT_ONCE: usize = 64;
/// How long after a failure a connection is tried again.
const RETRY_NS: u64 = 20_000_000;

/// The connection, and every request so far.
#[derive(Debug)]
pub struct Requests {
    address: SocketAddrV4,
    state: State,
    responses: Responses,
    /// `AT_ONCE` requests, one after another.
    text: Vec<u8>,
    /// Bytes of requests that are due and not yet with the kernel.
    unsent: usize,
    records: Vec<Record>,
    /// The first request that this connection has not answered.
    first_open: usize,
    resets: u64,
    malformed: u64,
    /// Of connections that are gone.
    retransmitted: u64,
}

#[derive(Debug)]
enum State {
    Connected { socket: OwnedFd, retransmitted_before: u64 },
    Connecting { socket: OwnedFd },
    Down { retry_ns: u64 },
}

/// What is known at the end.
pub struct Answered {
    pub records: Vec<Record>,
    pub resets: u64,
    pub malformed: u64,
    pub retransmitted: u64,
}

impl Requests {
    /// Connects and has one request answered, so that the service is known to be there; makes room for so many records.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn connect(address: SocketAddrV4, patience: Duration, room: usize) -> Result<Requests, ProbeError> {
        const SERVICE: &str = "HTTP service";
        let failed = socket::unreachable(SERVICE, address, patience);
        let mut stream = socket::connect_within(address, patience).map_err(&failed)?;
        let mut responses = Responses::new();
        greet(&mut stream, &mut responses, patience).map_err(&failed)?;
        let socket = OwnedFd::from(stream);
        // What it took to come so far is not the migration's.
        let retransmitted_before = socket::retransmissions(socket.as_fd());
        Ok(Requests {
            address,
            state: State::Connected { socket, retransmitted_before },
            responses,
            text: REQUEST.repeat(AT_ONCE),
            unsent: 0,
            records: touched(room),
            first_open: 0,
            resets: 0,
            malformed: 0,
            retransmitted: 0,
        })
    }

    /// Sends the request of this point of the schedule, or as soon as the kernel takes it.
    pub fn send(&mut self, scheduled_ns: u64, now_ns: u64) {
        self.records.push(Record::sent(scheduled_ns, now_ns));
        match &self.state {
            State::Connected { .. } => {
                self.unsent += REQUEST.len();
                self.flush(now_ns);
            }
            // It will never be answered.
            State::Connecting { .. } | State::Down { .. } => self.first_open = self.records.len(),
        }
    }

    /// Gives the kernel what it takes.
    fn flush(&mut self, now_ns: u64) {
        while self.unsent > 0 {
            let State::Connected { socket, .. } = &self.state else { return };
            // All requests are the same, and what is unsent ends with the end of one.
            let begin = (REQUEST.len() - self.unsent % REQUEST.len()) % REQUEST.len();
            let bytes = &self.text[begin..];
            match rustix::net::send(socket, &bytes[..bytes.len().min(self.unsent)], NO_SIGNAL) {
                Ok(count) => self.unsent -= count,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => return self.lose(now_ns),
            }
        }
    }

    /// The socket can be read or written, or has an error.
    pub fn ready(&mut self, now_ns: impl Fn() -> u64) {
        match &self.state {
            State::Connecting { socket } => match sockopt::socket_error(socket) {
                Ok(Ok(())) => self.connected(),
                Ok(Err(_)) | Err(_) => self.state = State::Down { retry_ns: now_ns() + RETRY_NS },
            },
            State::Connected { .. } => {
                self.flush(now_ns());
                self.receive(now_ns);
            }
            State::Down { .. } => {}
        }
    }

    fn receive(&mut self, now_ns: impl Fn() -> u64) {
        while let State::Connected { socket, .. } = &self.state {
            let received = rustix::net::recv(socket, self.responses.space(), rustix::net::RecvFlags::empty());
            let now = now_ns();
            match received {
                Ok((count @ 1.., _)) => {
                    self.responses.filled(count);
                    if self.take_responses(now) == Err(Malformed) {
                        self.malformed += 1;
                        self.lose(now);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return,
                // The guest has closed it, or broken it.
                Ok((0, _)) | Err(_) => self.lose(now),
            }
        }
    }

    /// Answers come in the order of the requests.
    fn take_responses(&mut self, now_ns: u64) -> Result<(), Malformed> {
        while self.responses.next()? {
            // One that nobody asked for is no answer.
            self.records.get_mut(self.first_open).ok_or(Malformed)?.answer(now_ns);
            self.first_open += 1;
        }
        Ok(())
    }

    /// The connection is gone, and with it all that it had not answered.
    fn lose(&mut self, now_ns: u64) {
        self.retransmitted += self.retransmitted_by_this();
        self.resets += 1;
        self.state = State::Down { retry_ns: now_ns + RETRY_NS };
        (self.unsent, self.first_open) = (0, self.records.len());
        self.responses.restart();
    }

    /// Tries to connect, if it is time to.
    pub fn retry(&mut self, now_ns: u64) {
        let State::Down { retry_ns } = self.state else { return };
        if now_ns < retry_ns {
            return;
        }
        self.state = match begin_to_connect(self.address) {
            Ok(socket) => State::Connecting { socket },
            Err(_) => State::Down { retry_ns: now_ns + RETRY_NS },
        };
    }

    fn connected(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Down { retry_ns: 0 });
        if let State::Connecting { socket } = state {
            let retransmitted_before = socket::retransmissions(socket.as_fd());
            self.state = State::Connected { socket, retransmitted_before };
            self.first_open = self.records.len();
        }
    }

    /// What is to be waited for: the socket, and whether to write.
    pub fn waits_for(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.state {
            State::Connected { socket, .. } => Some((socket.as_fd(), self.unsent > 0)),
            State::Connecting { socket } => Some((socket.as_fd(), true)),
            State::Down { .. } => None,
        }
    }

    /// Nothing is to be answered any more.
    pub fn is_idle(&self) -> bool {
        self.first_open == self.records.len()
    }

    /// Everything that was seen.
    pub fn finish(self) -> Answered {
        let retransmitted = self.retransmitted + self.retransmitted_by_this();
        Answered { records: self.records, resets: self.resets, malformed: self.malformed, retransmitted }
    }

    fn retransmitted_by_this(&self) -> u64 {
        match &self.state {
            State::Connected { socket, retransmitted_before } => {
                socket::retransmissions(socket.as_fd()).saturating_sub(*retransmitted_before)
            }
            State::Connecting { .. } | State::Down { .. } => 0,
        }
    }
}

/// One request and its answer, waiting for both.
fn greet(stream: &mut TcpStream, responses: &mut Responses, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(REQUEST)?;
    while !responses.next().map_err(|Malformed| io::Error::other("it answers, and not with HTTP/1.1 200"))? {
        match stream.read(responses.space())? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => responses.filled(count),
        }
    }
    stream.set_nonblocking(true)
}

fn begin_to_connect(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &SocketAddr::V4(address)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// An empty list with room whose pages are there already: none is to be made while the schedule runs.
pub fn touched(room: usize) -> Vec<Record> {
    let mut records = vec![Record::sent(1, 1); room];
    records.clear();
    records
}
