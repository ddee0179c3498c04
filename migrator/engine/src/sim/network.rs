//! The simulated machine's network: numbered frames, so that each that is lost, doubled or overtaken is known.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Frames that come while a guest stands still.
pub(super) const FRAMES_A_PAUSE: u64 = 3;
/// Frames that come later, before the network has learned that the guest is gone.
const LATE_FRAMES: u64 = 2;
const FRAME_BYTES: usize = 16;
/// What a frame's number is mixed with, so that a damaged frame is known as one.
const CHECK: u64 = 0x5bd1_e995_97f4_a7c1;

/// One host's network, as far as it concerns one guest.
#[derive(Debug, Default)]
pub(super) struct SimNetwork(Mutex<Frames>);

#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What has come to this host and was not taken.
    pub waiting: VecDeque<u64>,
    /// What was handed to a machine whose guest does not run yet.
    pub backlog: Vec<u64>,
    /// The number of the next frame that somebody sends to the guest.
    pub next: u64,
    pub late_ones_came: bool,
    pub announcements: u32,
    /// Its frames go ahead of others now, and did at any time.
    pub is_ahead: bool,
    pub was_ahead: bool,
}

impl SimNetwork {
    pub fn lock(&self) -> MutexGuard<'_, Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Frames {
    /// Somebody sends frames to a guest that stands still and expects number `next`.
    pub fn send_to_guest(&mut self, next: u64, count: u64) {
        self.waiting.extend(next..next + count);
        self.next = next + count;
    }

    /// The next frame that waits; somebody who does not know yet that the guest is gone sends a few more.
    pub fn take(&mut self) -> Option<u64> {
        if !self.late_ones_came {
            self.late_ones_came = true;
            self.send_to_guest(self.next, LATE_FRAMES);
        }
        self.waiting.pop_front()
    }
}

/// A frame on the wire.
pub(super) fn encode(number: u64, frame: &mut [u8]) -> usize {
    frame[..8].copy_from_slice(&number.to_le_bytes());
    frame[8..FRAME_BYTES].copy_from_slice(&(number ^ CHECK).to_le_bytes());
    FRAME_BYTES
}

/// Its number; `None` if it was damaged, which a guest drops.
pub(super) fn decode(frame: &[u8]) -> Option<u64> {
    let word = |at: usize| frame.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let number = word(0)?;
    (frame.len() == FRAME_BYTES && word(8)? == number ^ CHECK).then_some(number)
}
