//! A guest that is nothing but a few replies on a tap: ARP, and UDP echo.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    mem,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use benches::network::{GUEST_ADDRESS, GUEST_MAC, Network, Side, TAP};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const RARP: [u8; 2] = [0x80, 0x35];

/// Runs until it is dropped, which also detaches it from its tap.
pub struct FakeGuest {
    tap: File,
    echoed: Arc<AtomicU64>,
    is_here: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeGuest {
    /// Attaches to the tap of a side, by name as a VMM does. Where the guest is not yet, nobody answers ARP.
    pub fn attach(network: &Network, side: Side, is_here: bool) -> FakeGuest {
        let tap = network.in_namespace(side, open).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !network.tap_forwards(side).unwrap() {
            assert!(Instant::now() < deadline, "the bridge does not notice that somebody is attached");
            thread::sleep(Duration::from_millis(1));
        }
        let (echoed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let is_here = Arc::new(AtomicBool::new(is_here));
        let (mut its_tap, its_echoed, its_stop) = (tap.try_clone().unwrap(), echoed.clone(), stop.clone());
        let is_here_now = is_here.clone();
        let thread = thread::spawn(move || {
            let mut frame = [0; 2048];
            let patience = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            while !its_stop.load(Ordering::SeqCst) {
                let borrowed = its_tap.as_fd();
                if poll(&mut [PollFd::new(&borrowed, PollFlags::IN)], Some(&patience)).unwrap() == 0 {
                    continue;
                }
                let length = its_tap.read(&mut frame).unwrap();
                if let Some(is_echo) = reply(&mut frame[..length])
                    && (is_echo || is_here_now.load(Ordering::SeqCst))
                {
                    its_echoed.fetch_add(u64::from(is_echo), Ordering::SeqCst);
                    its_tap.write_all(&frame[..length]).unwrap();
                }
            }
        });
        FakeGuest { tap, echoed, is_here, stop, thread: Some(thread) }
    }

    /// The guest moves here: says so by one frame, as the destination does for it.
    pub fn take_over(&mut self, from: &FakeGuest) {
        from.is_here.store(false, Ordering::SeqCst);
        self.is_here.store(true, Ordering::SeqCst);
        let mut frame = [0; 60];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&GUEST_MAC);
        frame[12..14].copy_from_slice(&RARP);
        // Ethernet, IPv4, lengths, "reverse request", and the MAC that is asked for: one's own.
        frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 3]);
        frame[22..28].copy_from_slice(&GUEST_MAC);
        frame[32..38].copy_from_slice(&GUEST_MAC);
        self.tap.write_all(&frame).unwrap();
    }

    /// Datagrams it has sent back.
    pub fn echoed(&self) -> u64 {
        self.echoed.load(Ordering::SeqCst)
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().ok();
    }
}

fn open() -> File {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF takes an ifreq, which lives until it returns.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    tap
}

/// Turns a frame into the answer to it, if it wants one; says whether it was a datagram.
fn reply(frame: &mut [u8]) -> Option<bool> {
    let is_for_us = frame.len() >= 42 && (frame[0] & 1 == 1 || frame[..6] == GUEST_MAC);
    let kind = [frame[12], frame[13]];
    if is_for_us && kind == ARP && frame[38..42] == GUEST_ADDRESS.octets() && frame[20..22] == [0, 1] {
        frame[21] = 2;
        let (asker_mac, asker): ([u8; 6], [u8; 4]) =
            (frame[22..28].try_into().unwrap(), frame[28..32].try_into().unwrap());
        frame[32..38].copy_from_slice(&asker_mac);
        frame[38..42].copy_from_slice(&asker);
        frame[22..28].copy_from_slice(&GUEST_MAC);
        frame[28..32].copy_from_slice(&GUEST_ADDRESS.octets());
        answer_to(frame, asker_mac);
        return Some(false);
    }
    const UDP: u8 = 17;
    if is_for_us && kind == IPV4 && frame[23] == UDP && frame[30..34] == GUEST_ADDRESS.octets() {
        let asker_mac = frame[6..12].try_into().unwrap();
        // What is swapped does not change a sum; that over the datagram may be left out.
        for i in 0..4 {
            frame.swap(26 + i, 30 + i);
        }
        frame.swap(34, 36);
        frame.swap(35, 37);
        frame[40..42].fill(0);
        answer_to(frame, asker_mac);
        return Some(true);
    }
    None
}

fn answer_to(frame: &mut [u8], mac: [u8; 6]) {
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&GUEST_MAC);
}
