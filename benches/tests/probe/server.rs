//! A server that can be held still, broken, and made to lie.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Its threads end with the connections, or with the process of the test.
pub struct Server {
    pub http: SocketAddrV4,
    pub udp: SocketAddrV4,
    pub echo: SocketAddrV4,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whoever holds it holds up every answer.
    gate: Mutex<()>,
    http: Mutex<Vec<TcpStream>>,
    spoil: AtomicBool,
}

impl Server {
    /// HTTP, UDP echo and TCP echo at free ports of an address.
    pub fn start(address: Ipv4Addr) -> Server {
        let shared = Arc::new(Shared::default());
        let listen = |serve: fn(TcpStream, &Shared)| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let (at, shared) = (v4(listener.local_addr().unwrap()), shared.clone());
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = shared.clone();
                    thread::spawn(move || serve(stream, &shared));
                }
            });
            at
        };
        let (http, echo) = (listen(serve_http), listen(serve_echo));
        let socket = UdpSocket::bind((address, 0)).unwrap();
        let udp = v4(socket.local_addr().unwrap());
        let its = shared.clone();
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut datagram) {
                let _gate = its.gate.lock().unwrap();
                socket.send_to(&datagram[..length], from).ok();
            }
        });
        Server { http, udp, echo, shared }
    }

    /// Nothing is answered as long as it is held.
    pub fn gate(&self) -> MutexGuard<'_, ()> {
        self.shared.gate.lock().unwrap()
    }

    /// How many HTTP connections there have been.
    pub fn http_connections(&self) -> usize {
        self.shared.http.lock().unwrap().len()
    }

    /// Closes them.
    pub fn break_http(&self) {
        for stream in self.shared.http.lock().unwrap().iter() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// The next byte that is echoed is another, once.
    pub fn spoil_a_byte(&self) {
        self.shared.spoil.store(true, Ordering::SeqCst);
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("bound to an IPv4 address"),
    }
}

fn serve_http(mut stream: TcpStream, shared: &Shared) {
    shared.http.lock().unwrap().push(stream.try_clone().unwrap());
    stream.set_nodelay(true).unwrap();
    let (mut bytes, mut asked) = ([0; 4096], Vec::new());
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        asked.extend_from_slice(&bytes[..count]);
        while let Some(end) = asked.windows(4).position(|four| four == b"\r\n\r\n") {
            assert!(asked.starts_with(b"GET / HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&asked));
            asked.drain(..end + 4);
            let _gate = shared.gate.lock().unwrap();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nheartbeat 123").is_err() {
                return;
            }
        }
    }
}

fn serve_echo(mut stream: TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if shared.spoil.swap(false, Ordering::SeqCst) {
            bytes[count / 2] ^= 0x01;
        }
        let _gate = shared.gate.lock().unwrap();
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}
