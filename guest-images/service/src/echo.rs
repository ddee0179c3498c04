//! Echo: what comes goes back (RFC 862).

use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;

use crate::ECHO_PORT;
use crate::slot::Slot;

/// Bytes moved from a socket's receive buffer to its send buffer at a time.
const CHUNK: usize = 2048;
/// Datagrams echoed in one step.
const DATAGRAMS: usize = 16;

/// Sends back what came in, as far as there is room. A peer that has closed its side gets the rest, and ours.
pub fn stream(slot: &mut Slot, socket: &mut tcp::Socket<'_>, now: Instant) {
    let mut chunk = [0; CHUNK];
    while socket.can_recv() && socket.can_send() {
        let room = (socket.send_capacity() - socket.send_queue()).min(CHUNK);
        let taken = socket.recv_slice(&mut chunk[..room]).unwrap_or(0);
        // There is room for all of it, and `can_send` says that the connection takes it.
        let sent = socket.send_slice(&chunk[..taken]);
        if taken == 0 || sent != Ok(taken) {
            break;
        }
        slot.is_busy(now);
    }
    if !socket.may_recv() {
        slot.close(socket, now);
    }
}

/// Sends back datagrams. True if there may be more.
///
/// Not those from the echo port itself: two echo services would never be done with each other.
pub fn datagrams(socket: &mut udp::Socket<'_>, echoed: &mut u64, errors: &mut u64) -> bool {
    let mut datagram = [0; 1500];
    for _ in 0..DATAGRAMS {
        if !socket.can_send() {
            return false;
        }
        match socket.recv_slice(&mut datagram) {
            Ok((bytes, from)) if from.endpoint.port != ECHO_PORT => {
                match socket.send_slice(&datagram[..bytes], from.endpoint) {
                    Ok(()) => *echoed += 1,
                    Err(_) => *errors += 1,
                }
            }
            Ok(_) | Err(udp::RecvError::Truncated) => *errors += 1,
            Err(udp::RecvError::Exhausted) => return false,
        }
    }
    true
}
