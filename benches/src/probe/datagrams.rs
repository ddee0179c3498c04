//! Numbered datagrams that the guest sends back.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use super::{ProbeError, record::Record, requests::touched, socket::unreachable};

/// What a datagram begins with, so that a stray one is not taken for an answer.
const MAGIC: [u8; 8] = *b"ferry\0\0\x01";
/// The magic, the number, and as much again.
const LENGTH: usize = 32;

/// Room for the answers of some seconds.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// The socket, and every datagram so far.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    records: Vec<Record>,
    /// The highest number that has come back.
    highest: Option<usize>,
    duplicated: u64,
    reordered: u64,
}

/// What is known at the end.
pub struct Echoed {
    pub records: Vec<Record>,
    pub duplicated: u64,
    pub reordered: u64,
}

impl Datagrams {
    /// Has one datagram echoed, so that the service is known to be there; makes room for so many records.
    ///
    /// # Errors
    /// If nothing comes back in time.
    pub fn connect(address: SocketAddrV4, patience: Duration, room: usize) -> Result<Datagrams, ProbeError> {
        let socket = greet(address, patience).map_err(unreachable("UDP echo", address, patience))?;
        Ok(Datagrams { socket, records: touched(room), highest: None, duplicated: 0, reordered: 0 })
    }

    /// Sends the datagram of this point of the schedule. One that the kernel does not take is lost.
    pub fn send(&mut self, scheduled_ns: u64, now_ns: u64) {
        let datagram = datagram(self.records.len() as u64);
        self.records.push(Record::sent(scheduled_ns, now_ns));
        self.socket.send(&datagram).ok();
    }

    /// Takes what has come.
    pub fn receive(&mut self, now_ns: impl Fn() -> u64) {
        let mut datagram = [0; LENGTH + 1];
        loop {
            match self.socket.recv(&mut datagram) {
                Ok(length) => {
                    if let Some(number) = number(&datagram[..length]) {
                        self.take(number, now_ns());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The guest's host says that nobody is there: each such word is one error, and the datagram is lost.
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, number: u64, now_ns: u64) {
        let number = number as usize;
        let Some(record) = self.records.get_mut(number) else { return };
        if !record.is_lost() {
            self.duplicated += 1;
            return;
        }
        record.answer(now_ns);
        match self.highest {
            Some(highest) if number < highest => self.reordered += 1,
            _ => self.highest = Some(number),
        }
    }

    /// What is to be waited for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The last one sent has come back; those before it will not.
    pub fn is_idle(&self) -> bool {
        self.records.last().is_none_or(|last| !last.is_lost())
    }

    /// Everything that was seen.
    pub fn finish(self) -> Echoed {
        Echoed { records: self.records, duplicated: self.duplicated, reordered: self.reordered }
    }
}

fn greet(address: SocketAddrV4, patience: Duration) -> io::Result<UdpSocket> {
    /// No record has this number.
    const GREETING: u64 = u64::MAX;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    // After a long pause the answers come all at once, and none must be lost here. Beyond the system's limit root may go.
    sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (deadline, mut answer) = (Instant::now() + patience, [0; LENGTH + 1]);
    loop {
        let answered = socket.send(&datagram(GREETING)).and_then(|_| socket.recv(&mut answer));
        match answered {
            Ok(length) if number(&answer[..length]) == Some(GREETING) => break,
            Ok(_) => {}
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn datagram(number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let number = u64::from_be_bytes(bytes[8..16].try_into().ok()?);
    (*bytes == datagram(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_has_no_number() {
        assert_eq!(number(&datagram(7)), Some(7));
        assert_eq!(number(&datagram(7)[..31]), None);
        let mut damaged = datagram(7);
        damaged[20] = 1;
        assert_eq!(number(&damaged), None);
    }

    #[test]
    fn duplicates_and_late_ones_are_counted() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let records = (0..5).map(|i| Record::sent(i * 1_000_000, i * 1_000_000)).collect();
        let mut datagrams = Datagrams { socket, records, highest: None, duplicated: 0, reordered: 0 };
        for number in [0, 2, 1, 1, 3, 99, 3] {
            datagrams.take(number, 5_000_000);
        }
        assert_eq!((datagrams.duplicated, datagrams.reordered), (2, 1));
        assert!(!datagrams.is_idle());
        let lost: Vec<bool> = datagrams.finish().records.iter().map(Record::is_lost).collect();
        assert_eq!(lost, [false, false, false, false, true]);
    }
}
