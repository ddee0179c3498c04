//! What a client does.

use guest_service::smoltcp::iface::SocketHandle;
use guest_service::smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use crate::net::{Net, SERVER, leak_bytes};

/// A client's end of a connection.
#[derive(Clone, Copy)]
pub struct Tcp(pub SocketHandle);

impl Net {
    /// Begins to connect.
    pub fn connect(&mut self, port: u16) -> Tcp {
        let socket =
            Socket::new(SocketBuffer::new(leak_bytes(16 << 10)), SocketBuffer::new(leak_bytes(16 << 10)));
        let handle = self.sockets.add(socket);
        self.reconnect(Tcp(handle), port);
        Tcp(handle)
    }

    /// Begins to connect once more.
    pub fn reconnect(&mut self, tcp: Tcp, port: u16) {
        self.next_port += 1;
        let local = self.next_port;
        let socket = self.sockets.get_mut::<Socket<'_>>(tcp.0);
        socket.connect(self.client.context(), (SERVER, port), local).unwrap();
        socket.set_nagle_enabled(false);
    }

    pub fn socket(&mut self, tcp: Tcp) -> &mut Socket<'static> {
        self.sockets.get_mut(tcp.0)
    }

    pub fn state(&mut self, tcp: Tcp) -> State {
        self.socket(tcp).state()
    }

    pub fn send(&mut self, tcp: Tcp, bytes: &[u8]) {
        let mut sent = 0;
        self.until("all is sent", |net| {
            let socket = net.socket(tcp);
            if socket.may_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
            }
            sent == bytes.len()
        });
    }

    /// What has come in, without waiting.
    pub fn received(&mut self, tcp: Tcp) -> Vec<u8> {
        let mut bytes = Vec::new();
        let socket = self.socket(tcp);
        while socket.can_recv() {
            socket.recv(|data| (data.len(), bytes.extend_from_slice(data))).unwrap();
        }
        bytes
    }

    /// Reads so many responses: status lines and bodies.
    pub fn responses(&mut self, tcp: Tcp, count: usize) -> Vec<(String, String)> {
        let mut text = String::new();
        let mut responses = Vec::new();
        self.until("all responses", |net| {
            text.push_str(&String::from_utf8(net.received(tcp)).unwrap());
            while let Some((response, bytes)) = split(&text) {
                responses.push(response);
                text.drain(..bytes);
            }
            responses.len() >= count
        });
        assert_eq!((responses.len(), text.as_str()), (count, ""));
        responses
    }

    /// Sends a request and reads its response.
    pub fn ask(&mut self, tcp: Tcp, request: &str) -> (String, String) {
        self.send(tcp, request.as_bytes());
        self.responses(tcp, 1).remove(0)
    }

    /// Whether the other side has closed the connection in an orderly way.
    pub fn is_closed_by_server(&mut self, tcp: Tcp) -> bool {
        self.state(tcp) == State::CloseWait
    }
}

/// The first response of a text, with its length.
fn split(text: &str) -> Option<((String, String), usize)> {
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    let length: usize = length.parse().unwrap();
    let body = rest.get(..length)?;
    let status = head.lines().next()?.strip_prefix("HTTP/1.1 ")?;
    Some(((status.to_owned(), body.to_owned()), head.len() + 4 + length))
}

pub const GET: &str = "GET / HTTP/1.1\r\nHost: pulse\r\n\r\n";
