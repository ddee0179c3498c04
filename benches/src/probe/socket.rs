//! What all of the probe's sockets need.

use std::{
    io, mem,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::{AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

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
    // SAFETY: all zeros is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    // A socket that was connected once has a tcp_info; there is no other reason to refuse.
    if done == 0 { u64::from(info.tcpi_total_retrans) } else { 0 }
}
