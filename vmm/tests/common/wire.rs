//! A small network in a namespace that goes with the thread that made it: taps and this host's own stack on one bridge.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BRIDGE: &str = "ferrybr0";
// include/uapi/linux/sockios.h
const SIOCBRADDBR: u64 = 0x89a0;
const SIOCBRADDIF: u64 = 0x89a2;

/// Moves this thread, and those that it starts from here on, into a network namespace of its own with a bridge at
/// `address`/24. If it may not says that `test` is skipped, and why.
pub fn in_own_network(test: &str, address: Ipv4Addr) -> bool {
    let made = unshare().and_then(|()| add_bridge()).and_then(|()| give_address(address));
    made.map_err(|error| println!("skipped: {test}: no network of its own: {error}")).is_ok()
}

fn unshare() -> io::Result<()> {
    // SAFETY: concerns this thread alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

fn add_bridge() -> io::Result<()> {
    let name = std::ffi::CString::new(BRIDGE).expect("has no zero");
    // SAFETY: the call reads a name, which lives across it.
    check(unsafe { libc::ioctl(socket()?.as_raw_fd(), SIOCBRADDBR as libc::Ioctl, name.as_ptr()) })
}

/// A bridge without an address of its own has the lowest of its ports', and another one when a tap joins: whoever knew
/// the old one would talk to nobody for a while.
fn fix_hardware_address() -> io::Result<()> {
    let mut request = request_for(BRIDGE);
    // SAFETY: an address is plain numbers; the call reads one `ifreq`, which lives across it.
    unsafe {
        request.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
        let bytes = [2, 0, 0, 0, 0x77, 1].map(|byte: u8| byte as libc::c_char);
        request.ifr_ifru.ifru_hwaddr.sa_data[..6].copy_from_slice(&bytes);
        check(libc::ioctl(socket()?.as_raw_fd(), libc::SIOCSIFHWADDR as libc::Ioctl, &request))
    }
}

fn give_address(address: Ipv4Addr) -> io::Result<()> {
    fix_hardware_address()?;
    for (call, value) in
        [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0))]
    {
        let mut request = request_for(BRIDGE);
        // SAFETY: an address is plain numbers; the place has room for one of IPv4.
        unsafe {
            let place = (&raw mut request.ifr_ifru.ifru_addr).cast::<libc::sockaddr_in>();
            (*place).sin_family = libc::AF_INET as u16;
            (*place).sin_addr.s_addr = u32::from_ne_bytes(value.octets());
            check(libc::ioctl(socket()?.as_raw_fd(), call as libc::Ioctl, &request))?;
        }
    }
    bring_up(BRIDGE)
}

/// Puts the interface `name` on the bridge and brings it up.
pub fn join(name: &str) {
    let mut request = request_for(name);
    // SAFETY: each call reads or writes one `ifreq`, which lives across it.
    unsafe {
        let socket = socket().expect("a socket");
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &mut request))
            .expect("exists");
        let index = request.ifr_ifru.ifru_ifindex;
        let mut request = request_for(BRIDGE);
        request.ifr_ifru.ifru_ifindex = index;
        check(libc::ioctl(socket.as_raw_fd(), SIOCBRADDIF as libc::Ioctl, &request)).expect("joins");
    }
    bring_up(name).expect("comes up");
}

fn bring_up(name: &str) -> io::Result<()> {
    let mut request = request_for(name);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the call reads one `ifreq`, which lives across it.
    check(unsafe { libc::ioctl(socket()?.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) })
}

/// Segments that a TCP socket sent again.
pub fn retransmissions(socket: &impl AsRawFd) -> u32 {
    // SAFETY: `tcp_info` is plain numbers; the call writes at most as many bytes as it is told there are.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut bytes = size_of_val(&info) as libc::socklen_t;
        let place = (&raw mut info).cast();
        check(libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &mut bytes))
            .expect("tells");
        info.tcpi_total_retrans
    }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: a new descriptor is nobody else's.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket).map(|()| OwnedFd::from_raw_fd(socket))
    }
}

fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain numbers, of which zeros are fine.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
