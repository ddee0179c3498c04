//! All memory of the services: fixed, and given from outside. There is no heap.

use smoltcp::iface::SocketStorage;
use smoltcp::socket::udp;

use crate::http::{MAX_HEAD_BYTES, MAX_RESPONSE_BYTES};
use crate::{ECHO_CONNECTIONS, HTTP_CONNECTIONS};

/// Sockets of all services.
pub const SOCKETS: usize = HTTP_CONNECTIONS + ECHO_CONNECTIONS + 1;
/// Datagrams that wait, in and out: those of half a second of a probe, which come at once after a long pause.
pub const DATAGRAMS: usize = 512;

const HTTP_RECEIVE_BYTES: usize = 2 * MAX_HEAD_BYTES;
const HTTP_SEND_BYTES: usize = 4 * MAX_RESPONSE_BYTES;
const ECHO_BYTES: usize = 8 << 10;
const DATAGRAM_BYTES: usize = DATAGRAMS * 128;
/// The sockets' buffers. All zero is a value.
pub struct Buffers {
    pub(crate) http: [([u8; HTTP_RECEIVE_BYTES], [u8; HTTP_SEND_BYTES]); HTTP_CONNECTIONS],
    pub(crate) echo: [([u8; ECHO_BYTES], [u8; ECHO_BYTES]); ECHO_CONNECTIONS],
    pub(crate) datagrams: [[u8; DATAGRAM_BYTES]; 2],
}

impl Buffers {
    /// Empty buffers.
    pub const ZERO: Self = Self {
        http: [([0; HTTP_RECEIVE_BYTES], [0; HTTP_SEND_BYTES]); HTTP_CONNECTIONS],
        echo: [([0; ECHO_BYTES], [0; ECHO_BYTES]); ECHO_CONNECTIONS],
        datagrams: [[0; DATAGRAM_BYTES]; 2],
    };
}

/// All memory of a service, which outlives it: there is no heap.
pub struct Memory<'a> {
    /// The sockets' buffers.
    pub buffers: &'a mut Buffers,
    /// The sockets.
    pub sockets: &'a mut [SocketStorage<'a>; SOCKETS],
    /// Datagrams that came in, and that go out.
    pub datagrams: [&'a mut [udp::PacketMetadata; DATAGRAMS]; 2],
}
