//! On a real tap, in a network namespace of its own that goes with the thread that made it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::tests::{MAC, RECEIVE, TRANSMIT, buffer_at, frame, give_buffers, number_of, received};
use super::*;
use crate::devices::virtio::driver::{Rig, until};

const TAP: &str = "ferrytest0";
/// For local experiments (IEEE 802, local experimental EtherType 1).
const ETHER_TYPE: u16 = 0x88b5;

/// Moves this thread into a network namespace of its own; if it may not says that `test` is skipped, and why.
fn in_own_namespace(test: &str) -> bool {
    // SAFETY: concerns this thread alone, which has no socket yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return true;
    }
    println!("skipped: {test}: no network namespace: {}", io::Error::last_os_error());
    false
}

fn tap(test: &str) -> Option<Tap> {
    match Tap::open(TAP) {
        Err(error @ (TapError::NoDriver | TapError::DeviceNotPermitted)) => {
            println!("skipped: {test}: {error}");
            None
        }
        other => Some(other.expect("a tap")),
    }
}

/// A socket that sends and receives whole frames on the tap's other side, which is brought up.
fn other_side() -> File {
    // SAFETY: plain calls with live arguments.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, libc::c_int::from(ETHER_TYPE.to_be()));
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request), 0);
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &mut request), 0);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETHER_TYPE.to_be();
        address.sll_ifindex = request.ifr_ifru.ifru_ifindex;
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32);
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        File::from(socket)
    }
}

#[test]
fn a_guest_talks_through_a_tap() {
    if !in_own_namespace("a_guest_talks_through_a_tap") {
        return;
    }
    let Some(tap) = tap("a_guest_talks_through_a_tap") else { return };
    let mut outside = other_side();
    let mut port = None;
    let rig = Rig::new(|control| {
        let (net, its_port) = Net::new(tap, MAC, control);
        port = Some(its_port);
        Box::new(net)
    });
    let port = port.expect("made");
    assert_eq!((port.tap_name(), port.mac()), (TAP, MAC));
    let mut driver = rig.driver(2);
    driver.set_up(0);
    outside.write_all(&frame(99, 60)[VNET_HEADER_BYTES..]).expect("sends");
    rig.device.open(true);
    port.announce().expect("announces");
    assert!(port.counters().stale >= 1, "what came before the start is not for the guest");

    // The host's own stack sends frames, too, when an interface comes up.
    give_buffers(&mut driver, 0, 16);
    outside.write_all(&frame(1, 1000)[VNET_HEADER_BYTES..]).expect("sends");
    let mut index = 0;
    let came = loop {
        let bytes = driver.wait_used(RECEIVE);
        let frame = received(&rig, index, bytes);
        if frame[24..26] == ETHER_TYPE.to_be_bytes() {
            break frame;
        }
        index += 1;
    };
    let mut expected = frame(1, 1000);
    expected[NUM_BUFFERS_AT] = 1;
    assert_eq!(came, expected);

    let sent = frame(2, 1470);
    rig.memory.write(buffer_at(30), &sent).expect("in memory");
    driver.add(TRANSMIT, &[(buffer_at(30), 12, false), (buffer_at(30) + 12, sent.len() as u32 - 12, false)]);
    driver.kick(TRANSMIT);
    driver.wait_used(TRANSMIT);
    let mut heard = vec![0; 2000];
    let length = outside.read(&mut heard).expect("receives");
    assert_eq!(heard[..length], sent[VNET_HEADER_BYTES..]);

    rig.close();
    outside.write_all(&frame(3, 60)[VNET_HEADER_BYTES..]).expect("sends");
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    let mut carried = None;
    until("the frame reaches the tap", || {
        let taken = port.take_frame(&mut buffer).expect("reads");
        carried = taken.filter(|_| buffer[24..26] == ETHER_TYPE.to_be_bytes());
        carried.is_some()
    });
    assert_eq!((carried, number_of(&buffer)), (Some(frame(3, 60).len()), 3));
}

#[test]
fn taps_that_cannot_be_used_are_refused_in_words() {
    let test = "taps_that_cannot_be_used_are_refused_in_words";
    for name in ["", "a name", "a/b", "tap%d", "sixteen-bytes-xx"] {
        assert!(matches!(Tap::open(name), Err(TapError::Name { .. })), "{name:?}");
    }
    let file = File::open("/dev/null").expect("opens");
    assert!(matches!(Tap::from_fd(file.into()), Err(TapError::NotTapDescriptor(_))));
    if !in_own_namespace(test) {
        return;
    }
    let Some(first) = tap(test) else { return };
    assert!(matches!(Tap::open(TAP), Err(TapError::Busy { .. })));
    assert!(matches!(Tap::open("lo"), Err(TapError::NotTap { .. })));
    let copy = first.as_fd().try_clone_to_owned().expect("a copy");
    assert_eq!(Tap::from_fd(copy).expect("the same tap").name(), TAP);
}
