//! Which of this host's addresses others can be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where a socket that is bound to `bound` can be reached: itself, or one of this host's addresses if it is bound to all.
pub(super) fn reachable(bound: SocketAddr) -> SocketAddr {
    let found = match bound.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => towards_others(false).or_else(|| of_interface(false)),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => [false, true]
            .into_iter()
            .find_map(towards_others)
            .or_else(|| [false, true].into_iter().find_map(of_interface)),
        _ => return bound,
    };
    SocketAddr::new(found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), bound.port())
}

/// The address that this host uses towards the world. Nothing is sent: a datagram socket that is connected has only
/// looked up its route.
fn towards_others(v6: bool) -> Option<IpAddr> {
    // Addresses for documentation, which nobody has.
    let (own, other) = if v6 { ("[::]:0", "[2001:db8::1]:9") } else { ("0.0.0.0:0", "192.0.2.1:9") };
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect(other).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// The first address of an interface that is no loopback: for a host without a route to the world.
fn of_interface(v6: bool) -> Option<IpAddr> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the kernel's answer is put into a list that `first` then leads.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return None;
    }
    let mut next = first;
    let mut found = None;
    while !next.is_null() && found.is_none() {
        // SAFETY: the list lives until it is freed below.
        let entry = unsafe { &*next };
        // SAFETY: an entry's address is one, or null.
        found = unsafe { ip_of(entry.ifa_addr) }
            .filter(|ip| ip.is_ipv6() == v6 && !ip.is_loopback() && !is_link_local(ip));
        next = entry.ifa_next;
    }
    // SAFETY: nothing of the list is used any more.
    unsafe { libc::freeifaddrs(first) };
    found
}

/// # Safety
/// `address` is null or a socket address as its family says.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; an IPv6 address is read as one only if it is.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let address = &*address.cast::<libc::sockaddr_in>();
                Some(IpAddr::V4(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes())))
            }
            libc::AF_INET6 => {
                let address = &*address.cast::<libc::sockaddr_in6>();
                Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    }
}

/// Such an address means something only together with an interface of who uses it.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
