//! Taps that stay when nobody is attached, so that one process after another can be a guest's.

use std::{fs::OpenOptions, io, mem, os::fd::AsRawFd};

use rustix::process::geteuid;

use super::{NetworkError, interfaces};

/// Frames that a tap holds until the guest takes them; the kernel's own choice is 500. While a guest stands still for
/// stop-and-copy they wait here, three or four a millisecond.
const QUEUE: u32 = 10_000;

/// Makes a tap in the namespace of the calling thread. This user's processes may attach to it by name; the kernel
/// takes it away with its namespace.
///
/// # Errors
/// If `/dev/net/tun` cannot be opened, or the kernel refuses.
pub fn make(name: &str) -> Result<(), NetworkError> {
    persistent(name).map_err(NetworkError::interface("make the tap (through /dev/net/tun)", name))?;
    interfaces::queue(name, QUEUE)
}

fn persistent(name: &str) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid ifreq: an empty name, no flags.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero: a name that is too long is cut, and then not found.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    let owner = libc::c_ulong::from(geteuid().as_raw());
    // SAFETY: TUNSETIFF takes an ifreq, which lives until it returns; the others take a number.
    unsafe {
        check(libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request))?;
        check(libc::ioctl(tun.as_raw_fd(), libc::TUNSETOWNER, owner))?;
        check(libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
