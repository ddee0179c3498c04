//! A relay between source and destination that does at one point of a migration what a peer, its host or the network may
//! do. Both sides are real; neither knows of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use engine::{
    pages::PAGE_SIZE,
    protocol::{FromDestination, FromSource, GREETING_BYTES, Greeting, Role, decode_message, encode_message},
};

/// Where it acts: at this message of the control link, in place of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The destination's first words.
    Greeting,
    Offer,
    Accepted,
    State,
    Loaded,
    Start,
    Running,
    /// No message: pages follow a guest that runs at the destination.
    Push,
    Complete,
}

/// What the peer does that is to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    SaysNo,
    Ends,
    /// A byte now and then.
    Trickles,
    /// Neither FIN nor RST, and nothing is acknowledged. After the handover for a while, before it for good.
    Vanishes,
    /// Its process, for a while.
    IsStopped,
    /// One link of pages carries nothing any more, and everything else is well.
    Stalls(Role),
}

impl At {
    pub fn is_after_handover(self) -> bool {
        matches!(self, At::Push | At::Complete)
    }

    fn of_source(message: &FromSource) -> Option<At> {
        match message {
            FromSource::Offer(_) => Some(At::Offer),
            FromSource::State(_) => Some(At::State),
            FromSource::Start { .. } => Some(At::Start),
            _ => None,
        }
    }

    fn of_destination(message: &FromDestination) -> Option<At> {
        match message {
            FromDestination::Accepted { .. } => Some(At::Accepted),
            FromDestination::Loaded(_) => Some(At::Loaded),
            FromDestination::Running { .. } => Some(At::Running),
            FromDestination::Complete { .. } => Some(At::Complete),
            _ => None,
        }
    }
}

/// Longer than anything that is to happen meanwhile.
const WHILE: Duration = Duration::from_millis(2500);
/// How often a thread looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

pub struct Relay {
    pub host_and_port: String,
    shared: Arc<Shared>,
}

struct Shared {
    at: At,
    does: Does,
    has_acted: AtomicBool,
    /// Nothing is passed on.
    is_halted: AtomicBool,
    /// Nothing on links for this is.
    stalled: Mutex<Option<Role>>,
    /// Little is.
    is_slow: AtomicBool,
    is_over: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Between a source and the destination at `address`.
    pub fn to(address: &str, at: At, does: Does) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host_and_port = listener.local_addr().unwrap().to_string();
        listener.set_nonblocking(true).unwrap();
        let [has_acted, is_halted, is_slow, is_over] = std::array::from_fn(|_| AtomicBool::new(false));
        let shared = Arc::new(Shared {
            at,
            does,
            has_acted,
            is_halted,
            is_slow,
            is_over,
            stalled: Mutex::default(),
            sockets: Mutex::default(),
        });
        let (relays, address) = (shared.clone(), address.to_owned());
        thread::spawn(move || {
            while !relays.is_over() {
                match listener.accept() {
                    Ok((source, _)) => {
                        let destination = TcpStream::connect(&address).unwrap();
                        relays.clone().link(source, destination);
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Relay { host_and_port, shared }
    }

    pub fn has_acted(&self) -> bool {
        self.shared.has_acted.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Passes on what one link carries, both ways.
    fn link(self: Arc<Shared>, mut source: TcpStream, destination: TcpStream) {
        source.set_nonblocking(false).unwrap();
        for socket in [&source, &destination] {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(TICK)).unwrap();
            self.sockets.lock().unwrap().push(socket.try_clone().unwrap());
        }
        thread::spawn(move || {
            let mut greeting = [0; GREETING_BYTES];
            if !self.read(&mut source, &mut greeting) {
                return;
            }
            let role = Greeting::decode(&greeting).map_or(Role::Control, |greeting| greeting.role);
            let is_control = role == Role::Control;
            (&destination).write_all(&greeting).unwrap();
            let ways = [(&source, &destination), (&destination, &source)]
                .map(|(from, to)| (self.clone(), from.try_clone().unwrap(), to.try_clone().unwrap()));
            let [forth, back] = ways;
            thread::spawn(move || match is_control {
                true => forth.0.pass_messages(forth.1, forth.2, true),
                false => forth.0.pass(role, forth.1, forth.2),
            });
            thread::spawn(move || {
                let (shared, mut from, to) = back;
                if !is_control {
                    return shared.pass(role, from, to);
                }
                let mut answer = [0; GREETING_BYTES];
                if shared.read(&mut from, &mut answer) && shared.send(At::Greeting, &answer, &to) {
                    shared.pass_messages(from, to, false);
                }
            });
        });
    }

    /// Reads all of it, unless the link ends or this is over.
    fn read(&self, from: &mut TcpStream, buffer: &mut [u8]) -> bool {
        let mut length = 0;
        while length < buffer.len() {
            match from.read(&mut buffer[length..]) {
                Ok(0) => return false,
                Ok(count) => length += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return false,
            }
            if self.is_over() {
                return false;
            }
        }
        true
    }

    fn pass(&self, role: Role, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 32 << 10];
        while !self.is_over() {
            if *self.stalled.lock().unwrap() == Some(role) {
                thread::sleep(TICK);
                continue;
            }
            let slow = self.is_slow.load(Ordering::SeqCst);
            let most = if slow { 512 } else { buffer.len() };
            match from.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    self.wait_while_halted();
                    if slow {
                        thread::sleep(TICK);
                    }
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        end(&from);
        end(&to);
    }

    fn pass_messages(self: Arc<Shared>, mut from: TcpStream, to: TcpStream, is_source: bool) {
        let mut prefix = [0; 8];
        while self.read(&mut from, &mut prefix) {
            let [a, b, c, d, e, f, g, h] = prefix;
            let (length, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            let mut message = prefix.to_vec();
            message.resize(prefix.len() + length as usize, 0);
            if !self.read(&mut from, &mut message[prefix.len()..]) {
                break;
            }
            let body = &message[prefix.len()..];
            let at = if is_source {
                let said = decode_message(crc, body).unwrap();
                message.extend(self.pages_along(&said, &mut from));
                At::of_source(&said)
            } else {
                At::of_destination(&decode_message(crc, body).unwrap())
            };
            let sent = match at {
                Some(at) => self.send(at, &message, &to),
                None => (&to).write_all(&message).is_ok(),
            };
            if !sent {
                return;
            }
            if at == Some(At::Running) && self.at == At::Push && !self.has_acted.swap(true, Ordering::SeqCst)
            {
                let shared = self.clone();
                let to_destination = from.try_clone().unwrap();
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(100));
                    shared.act(&[], &to_destination);
                });
            }
        }
        if !self.is_halted.load(Ordering::SeqCst) {
            end(&from);
            end(&to);
        }
    }

    /// Sends a message, or does something else in its place. Returns whether the link goes on.
    fn send(&self, at: At, message: &[u8], mut to: &TcpStream) -> bool {
        if at != self.at || self.has_acted.swap(true, Ordering::SeqCst) {
            self.wait_while_halted();
            return to.write_all(message).is_ok();
        }
        self.act(message, to)
    }

    fn act(&self, message: &[u8], mut to: &TcpStream) -> bool {
        match self.does {
            Does::SaysNo => {
                let reason = "not today".to_owned();
                let no = match self.at {
                    At::Offer | At::State | At::Start | At::Push => {
                        encode_message(&FromSource::Abort { reason })
                    }
                    _ => encode_message(&FromDestination::Abort { reason }),
                };
                to.write_all(&no.unwrap()).ok();
                thread::sleep(Duration::from_millis(300));
                self.sockets.lock().unwrap().iter().for_each(end);
                false
            }
            Does::Stalls(role) => {
                *self.stalled.lock().unwrap() = Some(role);
                true
            }
            Does::Ends => {
                self.sockets.lock().unwrap().iter().for_each(end);
                false
            }
            Does::Trickles if self.at == At::Push => {
                self.is_slow.store(true, Ordering::SeqCst);
                thread::sleep(WHILE);
                self.is_slow.store(false, Ordering::SeqCst);
                true
            }
            Does::Trickles => {
                let pause = if self.at.is_after_handover() { 50 } else { 1500 };
                message.iter().all(|&byte| {
                    thread::sleep(Duration::from_millis(pause));
                    !self.is_over() && to.write_all(&[byte]).is_ok()
                })
            }
            Does::Vanishes => {
                self.is_halted.store(true, Ordering::SeqCst);
                self.sockets.lock().unwrap().iter().for_each(vanish);
                if !self.at.is_after_handover() {
                    return false;
                }
                thread::sleep(WHILE);
                self.sockets.lock().unwrap().iter().for_each(appear);
                self.is_halted.store(false, Ordering::SeqCst);
                to.write_all(message).is_ok()
            }
            Does::IsStopped => {
                self.is_halted.store(true, Ordering::SeqCst);
                thread::sleep(WHILE);
                self.is_halted.store(false, Ordering::SeqCst);
                to.write_all(message).is_ok()
            }
        }
    }

    /// The pages that follow a state.
    fn pages_along(&self, said: &FromSource, from: &mut TcpStream) -> Vec<u8> {
        let FromSource::State(state) = said else { return Vec::new() };
        let mut along = vec![0; state.along.pages.len() * PAGE_SIZE];
        assert!(self.read(from, &mut along), "its pages follow a state");
        along
    }

    fn wait_while_halted(&self) {
        while self.is_halted.load(Ordering::SeqCst) && !self.is_over() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn end(socket: &TcpStream) {
    socket.shutdown(std::net::Shutdown::Both).ok();
}

/// Makes the kernel drop all that comes to this socket, unanswered.
pub fn vanish(socket: &TcpStream) {
    let mut drop_all = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_all };
    // SAFETY: the program and its one instruction live through the call.
    let attached = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
        let len = size_of_val(&program) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const program).cast(), len)
    };
    assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
}

/// Makes the kernel take again what comes to it.
fn appear(socket: &TcpStream) {
    let nothing: libc::c_int = 0;
    // SAFETY: the option takes no argument that counts.
    let detached = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_DETACH_FILTER);
        let len = size_of_val(&nothing) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const nothing).cast(), len)
    };
    assert_eq!(detached, 0, "{}", std::io::Error::last_os_error());
}
