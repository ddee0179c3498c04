//! Echo: what comes goes back (RFC 862).

use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;

use crate::ECHO_PORT;
use crate::slot::Slot;

/// Bytes moved from a socket's receive buffer to its send buffer at a time.
const CHUNK: usize = 2048;
/// Longest datagram: what a frame holds.
const LONGEST: usize = 1472;

/// Sends back what came in, as far as there is room. A peer that has closed its side gets the rest, and ours.
/// Each chunk costs one of the step's `left`.
pub fn stream(slot: &mut Slot, socket: &mut tcp::Socket<'_>, now: Instant, left: &mut usize) {
    while *left > 0 && socket.can_recv() && socket.can_send() {
        *left -= 1;
        let mut chunk = [0; CHUNK];
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

/// Sends back datagrams. Each costs one of the step's `left`.
///
/// Not those from the echo port itself: two echo services would never be done with each other.
pub fn datagrams(socket: &mut udp::Socket<'_>, echoed: &mut u64, errors: &mut u64, left: &mut usize) {
    while *left > 0 && socket.can_recv() && socket.can_send() {
        *left -= 1;
        let mut datagram = [0; LONGEST];
        match socket.recv_slice(&mut datagram) {
            Ok((bytes, from)) if from.endpoint.port != ECHO_PORT => {
                match socket.send_slice(&datagram[..bytes], from.endpoint) {
                    Ok(()) => *echoed += 1,
                    Err(_) => *errors += 1,
                }
            }
            _ => *errors += 1,
        }
    }
}
