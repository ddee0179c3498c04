//! Whether frames pass between a tap and the network that it is part of.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::tap::{Tap, request_for};

/// How often to look.
const TICK: Duration = Duration::from_millis(1);

impl Tap {
    /// Waits until the tap takes part in its network, at most so long; whether it does. The kernel treats a tap that
    /// somebody attached to as a cable that was plugged in: it, and a bridge that the tap is on, notice milliseconds
    /// later, and up to a second later where another was just before. What comes meanwhile is lost. A tap that was not
    /// brought up is not waited for.
    ///
    /// To be called in the network namespace in which the tap was opened.
    pub fn wait_until_forwarding(&self, at_most: Duration) -> io::Result<bool> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let begin = Instant::now();
        loop {
            let mut request = request_for(self.name());
            // SAFETY: SIOCGIFFLAGS reads and writes one `ifreq`, which lives across the call.
            if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) } < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the call filled in the flags.
            let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
            let is_running = flags & libc::IFF_RUNNING != 0;
            if is_running || flags & libc::IFF_UP == 0 || begin.elapsed() >= at_most {
                return Ok(is_running);
            }
            std::thread::sleep(TICK);
        }
    }
}
