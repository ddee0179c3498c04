//! A stream that the guest sends back, every byte of which is looked at.
//!
//! The stream is lines of 64 bytes, since some echoes work by the line. Which byte stands where follows from its
//! position alone, so that a byte that is lost, doubled or stale is found at its place, and every one after it.

use std::{
    net::{SocketAddrV4, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{io::Errno, net::RecvFlags};

use super::{
    ProbeError,
    socket::{self, NO_SIGNAL},
};

/// What is sent at a point of the schedule, at most: half a megabyte a second, so that the stream is there all the time
/// and takes little from the guest.
const PIECE: usize = 512;
/// What may be on its way at once.
const MOST_OPEN: u64 = 32 << 10;
const LINE: u64 = 64;

/// The connection, and how far each direction is.
#[derive(Debug)]
pub struct Echo {
    socket: Option<OwnedFd>,
    sent: u64,
    checked: u64,
    errors: u64,
    resets: u64,
    retransmitted_before: u64,
    retransmitted: u64,
}

/// What is known at the end.
pub struct Checked {
    pub bytes: u64,
    pub errors: u64,
    pub resets: u64,
    pub retransmitted: u64,
}

impl Echo {
    /// Connects.
    ///
    /// # Errors
    /// If nobody answers in time.
    pub fn connect(address: SocketAddrV4, patience: Duration) -> Result<Echo, ProbeError> {
        let ready = |stream: TcpStream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(OwnedFd::from(stream))
        };
        let socket = socket::connect_within(address, patience).and_then(ready);
        let socket = socket.map_err(socket::unreachable("TCP echo", address, patience))?;
        let retransmitted_before = socket::retransmissions(socket.as_fd());
        Ok(Echo {
            socket: Some(socket),
            sent: 0,
            checked: 0,
            errors: 0,
            resets: 0,
            retransmitted_before,
            retransmitted: 0,
        })
    }

    /// Sends another piece, unless too much is on its way.
    pub fn send(&mut self) {
        let Some(socket) = &self.socket else { return };
        if self.sent - self.checked > MOST_OPEN {
            return;
        }
        let mut piece = [0; PIECE];
        for (position, byte) in (self.sent..).zip(&mut piece) {
            *byte = byte_at(position);
        }
        match rustix::net::send(socket, &piece, NO_SIGNAL) {
            Ok(count) => self.sent += count as u64,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.lose(),
        }
    }

    /// Looks at what has come.
    pub fn receive(&mut self) {
        let mut bytes = [0; 4096];
        while let Some(socket) = &self.socket {
            match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
                Ok((count @ 1.., _)) => self.check(&bytes[..count]),
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok((0, _)) | Err(_) => self.lose(),
            }
        }
    }

    fn check(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // What was never sent is wrong whatever it is.
            let is_right = self.checked < self.sent && byte == byte_at(self.checked);
            self.errors += u64::from(!is_right);
            self.checked += 1;
        }
        // An echo that says more than it was told must not stop the stream.
        self.sent = self.sent.max(self.checked);
    }

    /// The connection was to be held, so it is not made again.
    fn lose(&mut self) {
        self.retransmitted = self.retransmitted_so_far();
        self.resets += 1;
        self.socket = None;
    }

    /// What is to be waited for.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Nothing is on its way any more.
    pub fn is_idle(&self) -> bool {
        self.socket.is_none() || self.sent == self.checked
    }

    /// Everything that was seen.
    pub fn finish(self) -> Checked {
        let retransmitted = self.retransmitted_so_far();
        Checked { bytes: self.checked, errors: self.errors, resets: self.resets, retransmitted }
    }

    fn retransmitted_so_far(&self) -> u64 {
        self.socket.as_ref().map_or(self.retransmitted, |socket| {
            socket::retransmissions(socket.as_fd()).saturating_sub(self.retransmitted_before)
        })
    }
}

/// The byte at a position of the stream.
fn byte_at(position: u64) -> u8 {
    if position % LINE == LINE - 1 {
        return b'\n';
    }
    // SplitMix64 of the position; its top six bits choose among 64 printable characters.
    let mut word = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b'0' + (word >> 58) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(sent: u64) -> Echo {
        Echo {
            socket: None,
            sent,
            checked: 0,
            errors: 0,
            resets: 0,
            retransmitted_before: 0,
            retransmitted: 0,
        }
    }

    fn stream(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(byte_at).collect()
    }

    #[test]
    fn the_right_stream_has_no_errors_however_it_is_cut() {
        let mut echo = echo(1_000);
        stream(0..1_000).chunks(7).for_each(|piece| echo.check(piece));
        let Checked { bytes, errors, .. } = echo.finish();
        assert_eq!((bytes, errors), (1_000, 0));
        assert!(
            stream(0..640).chunks(64).all(|line| line.iter().position(|&byte| byte == b'\n') == Some(63))
        );
    }

    #[test]
    fn a_lost_a_doubled_and_a_changed_byte_are_found() {
        let lost = [stream(0..100), stream(101..500)].concat();
        let doubled = [stream(0..100), stream(99..500)].concat();
        let mut changed = stream(0..500);
        changed[250] ^= 1;
        for (name, bytes, least) in [("lost", lost, 300), ("doubled", doubled, 300), ("changed", changed, 1)]
        {
            let mut echo = echo(600);
            echo.check(&bytes);
            assert!(echo.errors >= least, "{name}: {}", echo.errors);
        }
    }

    #[test]
    fn what_was_never_sent_is_wrong() {
        let mut echo = echo(10);
        echo.check(&stream(0..12));
        assert_eq!((echo.checked, echo.errors, echo.sent), (12, 2, 12));
    }
}
