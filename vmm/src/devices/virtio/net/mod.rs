//! A network card (Virtual I/O Device version 1.2, 5.1) on a tap.
//!
//! - `tap`: the host's end; `mac`: the card's address;
//! - `port`: the handle for whoever moves the guest; `backlog`: frames that come by that way;
//! - `address`, `announce`: telling the network where the guest is.
//!
//! Frames go between tap and guest memory by one `readv` or `writev` each, without a copy in between. Nothing is left to
//! the other side: no checksums, no segmentation, so the virtio header is all zeros but for its count of buffers.

mod address;
mod announce;
mod backlog;
mod carrier;
mod mac;
mod port;
mod tap;
#[cfg(test)]
mod tap_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP};
use vmm_sys_util::eventfd::EventFd;

use self::address::LOOKED_AT_BYTES;
use self::backlog::{MIN_FRAME_BYTES, WaitingFrames};
use self::port::{NUM_BUFFERS_AT, ONE_BUFFER, Shared, count};
use super::chain::Chain;
use super::function::{CHAINS_AT_ONCE, Function, Next, Work, read_config_bytes, work_off};
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};
use crate::memory::pieces::Pieces;

pub use self::backlog::{MAX_FRAME_BYTES, MAX_WAITING_BYTES, MAX_WAITING_FRAMES};
pub use self::mac::{MacAddress, ParseMacError};
pub use self::port::{InjectError, NetCounters, NetPort};
pub use self::tap::{Tap, TapError, VNET_HEADER_BYTES};

/// Receive queue, transmit queue.
const QUEUES: &[u16] = &[256, 256];

/// What is saved of a network card beyond its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetState {
    /// The guest's IPv4 address, if it is known.
    address: Option<[u8; 4]>,
    /// Frames that were for the guest and that its queue had no room for yet.
    waiting: WaitingFrames,
}

/// Where a frame for the guest ended up.
enum Fetched {
    /// In the pieces: so many bytes.
    Frame(usize),
    /// Nowhere: it was too long, or the tap failed.
    Lost,
    /// There is none.
    None,
}

/// The device's side of a network card.
#[derive(Debug)]
pub(super) struct Net {
    shared: Arc<Shared>,
    /// The tap failed, most likely because somebody deleted it: waiting for it would be waiting for nothing.
    tap_failed: bool,
}

impl Net {
    /// A card and its port. `control` wakes its worker.
    pub(super) fn new(tap: Tap, mac: MacAddress, control: Arc<EventFd>) -> (Net, NetPort) {
        let shared = Arc::new(Shared::new(tap, mac, control));
        (Net { shared: Arc::clone(&shared), tap_failed: false }, NetPort::new(shared))
    }

    /// Sends what the guest queued. Returns whether there is more.
    fn transmit(&self, queue: &mut VirtQueue, work: Work<'_>) -> Result<bool, Broken> {
        work_off(queue, work, |chain| {
            let sent = chain.is_ok_and(|chain| self.send(chain.readable));
            count(if sent { &self.shared.counters.sent } else { &self.shared.counters.dropped });
            0
        })
    }

    /// Writes one frame to the tap. Returns whether it took it.
    fn send(&self, mut frame: Pieces<'_>) -> bool {
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame.bytes()) {
            return false;
        }
        frame.skip(VNET_HEADER_BYTES);
        let mut start = [0; LOOKED_AT_BYTES];
        let length = frame.copy_out(0, &mut start);
        self.shared.address.learn(self.shared.mac, &start[..length]);
        // Our own header, not the guest's: it may ask for nothing that was not agreed on.
        frame.write_to(self.shared.tap.as_fd(), &[0; VNET_HEADER_BYTES]).is_ok()
    }

    /// Gives the guest what waits for it, as long as it has buffers.
    fn receive(&mut self, queue: &mut VirtQueue, work: Work<'_>) -> Result<Next, Broken> {
        if !queue.is_ready() {
            return Ok(Next::Wait { source: false });
        }
        let memory = work.memory;
        let mut left = CHAINS_AT_ONCE;
        let mut used = false;
        let next = loop {
            if left == 0 || work.hurries() {
                break Next::Again;
            }
            left -= 1;
            let Some(chain) = queue.pop(memory)? else {
                if queue.listen(memory)? {
                    continue;
                }
                // Frames stay in the tap until there is room for them.
                break Next::Wait { source: false };
            };
            let head = chain.head_index();
            let room = Chain::walk(memory, chain).map(|chain| chain.writable);
            let Ok(mut room) = room.and_then(fits_a_header) else {
                queue.push_used(memory, head, 0)?;
                used = true;
                continue;
            };
            match self.fetch(&mut room) {
                Fetched::Frame(bytes) => {
                    room.copy_in(NUM_BUFFERS_AT, &ONE_BUFFER);
                    queue.push_used(memory, head, bytes as u32)?;
                    count(&self.shared.counters.received);
                    used = true;
                }
                Fetched::Lost => {
                    queue.put_back();
                    count(&self.shared.counters.dropped);
                }
                Fetched::None => {
                    queue.put_back();
                    queue.silence(memory)?;
                    break Next::Wait { source: !self.tap_failed };
                }
            }
        };
        if used && queue.wants_interrupt(memory)? {
            work.interrupt.used_buffers();
        }
        Ok(next)
    }

    /// Brings the next frame for the guest into its buffer.
    fn fetch(&mut self, room: &mut Pieces<'_>) -> Fetched {
        // Taken out before guest memory is touched: see `Shared::backlog`.
        let waiting = self.shared.backlog().pop();
        if let Some(frame) = waiting {
            return match frame.len() <= room.bytes() {
                true => Fetched::Frame(room.copy_in(0, &frame)),
                false => Fetched::Lost,
            };
        }
        if self.tap_failed {
            return Fetched::None;
        }
        match room.read_from(self.shared.tap.as_fd()) {
            Ok(bytes) if bytes > room.bytes() => Fetched::Lost,
            Ok(bytes) => Fetched::Frame(bytes),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Fetched::None
            }
            Err(error) => {
                tracing::error!(%error, tap = self.shared.tap.name(), "a tap failed; its guest receives no more");
                self.tap_failed = true;
                Fetched::None
            }
        }
    }
}

/// A buffer that has not even room for a header is of no use.
fn fits_a_header(room: Pieces<'_>) -> Result<Pieces<'_>, super::chain::BadChain> {
    match room.bytes() >= MIN_FRAME_BYTES {
        true => Ok(room),
        false => Err(super::chain::BadChain::Short),
    }
}

impl Function for Net {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.shared.mac.0);
        config[6..].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        read_config_bytes(&config, offset, into);
    }

    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken> {
        let [receive, transmit] = queues else { return Ok(Next::Wait { source: false }) };
        // Before anything is sent: the network learns from it where the guest is, and what comes then is not stale.
        self.shared.drop_stale();
        let more = self.transmit(transmit, work)?;
        let next = self.receive(receive, work)?;
        Ok(if more { Next::Again } else { next })
    }

    fn source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.tap.as_fd())
    }

    fn precedence(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.shared.is_ahead))
    }

    fn started(&mut self, first: bool) {
        if first {
            self.shared.expect_stale();
        }
        self.shared.runs.store(true, Ordering::SeqCst);
    }

    fn stopped(&mut self) {
        self.shared.runs.store(false, Ordering::SeqCst);
    }

    fn reset(&mut self) {}

    fn save(&self) -> FunctionState {
        FunctionState::Net(NetState {
            address: self.shared.address.get().map(|address| address.octets()),
            waiting: self.shared.backlog().save(),
        })
    }

    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError> {
        match state {
            FunctionState::Net(NetState { address: Some([0, 0, 0, 0]), .. }) => {
                Err(FunctionStateError::Impossible { what: "0.0.0.0 as the guest's address" })
            }
            FunctionState::Net(state) => state.waiting.check(),
            _ => Err(FunctionStateError::Kind),
        }
    }

    fn restore(&mut self, state: &FunctionState) {
        let FunctionState::Net(state) = state else { return };
        self.shared.address.set(state.address.map(Into::into));
        let lost = self.shared.backlog().restore(&state.waiting);
        self.shared.counters.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}
