//! What all of the probe's sockets need.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

use engine::transport::tcp;
use rustix::net::SendFlags;

use super::ProbeError;

/// A peer that is gone is an error here and no signal.
pub const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;

/// Connects, trying again as long as patience lasts: the guest may still be booting.
///
/// # Errors
/// The last reason.
pub fn connect_within(address: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&SocketAddr::V4(address), left.min(Duration::from_secs(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// For `map_err`: which service cannot be reached.
pub fn unreachable(
    service: &'static str,
    address: SocketAddrV4,
    patience: Duration,
) -> impl Fn(io::Error) -> ProbeError {
    move |cause| ProbeError::Connect { service, address: address.into(), patience, cause }
}

/// Segments that the kernel sent more than once over a connection (`tcpi_total_retrans`).
pub fn retransmissions(socket: BorrowedFd<'_>) -> u64 {
    // A socket that was connected once has a tcp_info; there is no other reason to refuse.
    tcp::info(socket).map_or(0, |info| info.tcpi_total_retrans.into())
}
