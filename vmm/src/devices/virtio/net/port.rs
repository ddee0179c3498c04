//! A handle on a guest's network card, for whoever moves the guest.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::address::GuestAddress;
use super::announce;
use super::backlog::{Backlog, MAX_FRAME_BYTES, MAX_WAITING_BYTES, MAX_WAITING_FRAMES, MIN_FRAME_BYTES};
use super::mac::MacAddress;
use super::tap::{Tap, VNET_HEADER_BYTES};

/// Where the virtio header says how many buffers a frame is in: always one here (5.1.6.4).
pub(super) const NUM_BUFFERS_AT: usize = 10;
pub(super) const ONE_BUFFER: [u8; 2] = 1u16.to_le_bytes();

/// Frames of a network card since this machine was made; not part of its saved state. Each frame is counted in one of
/// `received`, `sent` and `dropped`, once its way ends here; `carried` and `injected` say which of them took a detour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Put into the guest's receive queue, wherever they came from.
    pub received: u64,
    /// Taken from the guest's transmit queue and written to the tap.
    pub sent: u64,
    /// Lost here: too long for the guest's buffer, in a chain that cannot be used, or refused by the tap.
    pub dropped: u64,
    /// Taken from the tap by [`NetPort::take_frame`]: for the guest, but not given to it here.
    pub carried: u64,
    /// Accepted by [`NetPort::inject`]. They are in `received` (or `dropped`) as well, once delivered.
    pub injected: u64,
    /// Thrown away at the start: what this host's tap had got before the guest was here.
    pub stale: u64,
}

/// A frame was not accepted for the guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InjectError {
    /// Not a frame with its header.
    #[error(
        "a frame of {bytes} bytes, its header included, is none: it must have {MIN_FRAME_BYTES} to {MAX_FRAME_BYTES}"
    )]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// The guest does not take its frames.
    #[error(
        "no room for another frame: at most {MAX_WAITING_FRAMES} frames and {MAX_WAITING_BYTES} bytes wait for a guest"
    )]
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
    carried: AtomicU64,
    injected: AtomicU64,
    stale: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the device and its ports share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tap: Tap,
    pub(super) mac: MacAddress,
    pub(super) address: GuestAddress,
    pub(super) counters: Counters,
    /// The machine runs: what the tap gets is for the device.
    pub(super) runs: AtomicBool,
    /// The tap may hold frames from before the guest was here. Locked while they are thrown away.
    stale: Mutex<bool>,
    backlog: Mutex<Backlog>,
    /// The device's worker goes ahead of others.
    pub(super) is_ahead: Arc<AtomicBool>,
    /// Wakes the device's worker.
    control: Arc<EventFd>,
}

impl Shared {
    pub(super) fn new(tap: Tap, mac: MacAddress, control: Arc<EventFd>) -> Shared {
        Shared {
            tap,
            mac,
            control,
            address: GuestAddress::default(),
            counters: Counters::default(),
            runs: AtomicBool::new(false),
            is_ahead: Arc::default(),
            stale: Mutex::new(false),
            backlog: Mutex::default(),
        }
    }

    /// Never held while guest memory is touched: a page may be missing, and who injects may be who brings it.
    pub(super) fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().expect("nothing panics with the backlog's lock held")
    }

    /// The guest starts here: what the tap has got so far was not for it, or was carried over by who got it first.
    pub(super) fn expect_stale(&self) {
        *self.stale.lock().expect("nothing panics with this lock held") = true;
    }

    /// Throws away what is stale, once.
    pub(super) fn drop_stale(&self) {
        let mut stale = self.stale.lock().expect("nothing panics with this lock held");
        if std::mem::take(&mut *stale) {
            // One byte is enough: a frame that does not fit is cut off, and gone.
            let mut header = [0; VNET_HEADER_BYTES];
            while rustix::io::read(&self.tap, &mut header).is_ok_and(|read| read > 0) {
                count(&self.counters.stale);
            }
        }
    }
}

/// A handle on a guest's network card: for any thread, whoever has borrowed the machine. It lives on after the machine and
/// keeps the tap open.
///
/// Frames are part of a guest's state. From the pause on its tap goes on receiving; at the source those frames are taken
/// with [`take_frame`](Self::take_frame) and carried to the destination, where [`inject`](Self::inject) queues them before
/// anything that the destination's own tap receives. If the guest goes on at the source after all, they are injected
/// there.
#[derive(Clone, Debug)]
pub struct NetPort {
    shared: Arc<Shared>,
}

impl NetPort {
    pub(super) fn new(shared: Arc<Shared>) -> NetPort {
        NetPort { shared }
    }

    /// The card's address.
    pub fn mac(&self) -> MacAddress {
        self.shared.mac
    }

    /// The tap's name.
    pub fn tap_name(&self) -> &str {
        self.shared.tap.name()
    }

    /// The guest's IPv4 address, as far as the frames that it sent tell.
    pub fn guest_address(&self) -> Option<Ipv4Addr> {
        self.shared.address.get()
    }

    /// What became of frames so far.
    pub fn counters(&self) -> NetCounters {
        let Counters { received, sent, dropped, carried, injected, stale } = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetCounters {
            received: get(received),
            sent: get(sent),
            dropped: get(dropped),
            carried: get(carried),
            injected: get(injected),
            stale: get(stale),
        }
    }

    /// Takes a frame that the tap received for the guest, with its virtio header of [`VNET_HEADER_BYTES`]: its length in
    /// bytes, or `None` if none is there now. Does not block; poll [`as_fd`](Self::as_fd) to wait. `into` should have
    /// [`MAX_FRAME_BYTES`]: what does not fit is cut off.
    ///
    /// Fails with [`io::ErrorKind::ResourceBusy`] while the machine runs: the frames are the guest's then.
    pub fn take_frame(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        if self.shared.runs.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        match rustix::io::read(&self.shared.tap, &mut *into) {
            Ok(bytes) => {
                // The tap leaves this part of the header as it was.
                if let Some(place) = into.get_mut(NUM_BUFFERS_AT..NUM_BUFFERS_AT + ONE_BUFFER.len()) {
                    place.copy_from_slice(&ONE_BUFFER);
                }
                count(&self.shared.counters.carried);
                Ok(Some(bytes))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Queues a frame, with its virtio header, for the guest: behind those injected before, before all that this host's
    /// tap receives. May be called before or after the start.
    pub fn inject(&self, frame: &[u8]) -> Result<(), InjectError> {
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame.len()) {
            return Err(InjectError::Length { bytes: frame.len() });
        }
        if !self.shared.backlog().push(frame) {
            return Err(InjectError::Full);
        }
        count(&self.shared.counters.injected);
        self.wake();
        Ok(())
    }

    /// Has the guest's frames handled ahead of what else this host's processors do, as far as that is permitted
    /// (SCHED_FIFO), until told otherwise: for a while in which much is copied. A guest gets no more than a part of a processor
    /// by it.
    pub fn go_ahead(&self, ahead: bool) {
        self.shared.is_ahead.store(ahead, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the worker is awake.
        self.shared.control.write(1).ok();
    }

    /// Tells the network that the guest is here now, after its start: by gratuitous ARP if its IPv4 address is known, and
    /// by RARP. From here on the network sends it its frames. Says nothing while the machine does not run: a guest that
    /// has left again must not be looked for here.
    pub fn announce(&self) -> io::Result<()> {
        if !self.shared.runs.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Before the network answers: what comes now is for the guest.
        self.shared.drop_stale();
        let arp = self.guest_address().map(|address| announce::arp(self.shared.mac, address));
        for frame in arp.iter().chain([&announce::rarp(self.shared.mac)]) {
            rustix::io::write(&self.shared.tap, frame)?;
        }
        Ok(())
    }
}

impl AsFd for NetPort {
    /// The tap: readable when a frame is there. Only to be waited for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.tap.as_fd()
    }
}
