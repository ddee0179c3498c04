//! Frames that wait for the guest on this side of its queue: those that another host's tap got for it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::tap::VNET_HEADER_BYTES;
use crate::devices::virtio::state::FunctionStateError;
use crate::state::Bytes;

/// Most bytes of a frame, its header of [`VNET_HEADER_BYTES`] included: room for the largest packet a tap can be set to.
pub const MAX_FRAME_BYTES: usize = VNET_HEADER_BYTES + 65_553;
/// Most frames that wait for a guest: what a few thousand clients' frames a second come to while all of its memory moves.
/// A tap holds 1 000 by itself.
pub const MAX_WAITING_FRAMES: usize = 64 << 10;
/// Most bytes of frames that wait for a guest.
pub const MAX_WAITING_BYTES: usize = 8 << 20;
/// An Ethernet header.
pub(super) const MIN_FRAME_BYTES: usize = VNET_HEADER_BYTES + 14;

/// Frames in the order in which the guest is to get them. Those of a saved state come first: whoever saved it had them
/// before its tap got those that were injected since.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    restored: VecDeque<Vec<u8>>,
    injected: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// Frames as they are saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitingFrames(Vec<Bytes>);

impl Backlog {
    /// Whether `frame` was taken; if not there is no room.
    pub(super) fn push(&mut self, frame: &[u8]) -> bool {
        let fits = self.len() < MAX_WAITING_FRAMES && self.bytes + frame.len() <= MAX_WAITING_BYTES;
        if fits {
            self.bytes += frame.len();
            self.injected.push_back(frame.to_vec());
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.restored.pop_front().or_else(|| self.injected.pop_front())?;
        self.bytes -= frame.len();
        Some(frame)
    }

    pub(super) fn save(&self) -> WaitingFrames {
        WaitingFrames(self.restored.iter().chain(&self.injected).cloned().map(Bytes).collect())
    }

    /// Takes over checked frames; what was injected here stays, behind them, as far as there is room. Returns how many
    /// frames there was none for: the limits hold always, or a state saved from here would be refused elsewhere.
    pub(super) fn restore(&mut self, frames: &WaitingFrames) -> u64 {
        self.restored = frames.0.iter().map(|frame| frame.0.clone()).collect();
        self.bytes = self.restored.iter().chain(&self.injected).map(Vec::len).sum();
        let mut lost = 0;
        while self.len() > MAX_WAITING_FRAMES || self.bytes > MAX_WAITING_BYTES {
            // Checked frames are within the limits by themselves.
            let Some(frame) = self.injected.pop_back() else { break };
            self.bytes -= frame.len();
            lost += 1;
        }
        lost
    }

    fn len(&self) -> usize {
        self.restored.len() + self.injected.len()
    }
}

impl WaitingFrames {
    /// Checks the limits.
    pub(super) fn check(&self) -> Result<(), FunctionStateError> {
        let bytes = self.0.iter().map(|frame| frame.0.len()).sum();
        let limits = [
            ("waiting frames", self.0.len(), MAX_WAITING_FRAMES),
            ("bytes of waiting frames", bytes, MAX_WAITING_BYTES),
        ];
        for (what, count, limit) in limits {
            if count > limit {
                return Err(FunctionStateError::TooMuch { what, count, limit });
            }
        }
        match self.0.iter().all(|frame| (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame.0.len())) {
            true => Ok(()),
            false => Err(FunctionStateError::Impossible { what: "a waiting frame of impossible length" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_frames_come_before_injected_ones_however_often_restored() {
        let mut source = Backlog::default();
        assert!(source.push(&[1; 30]) && source.push(&[2; 30]));
        let mut here = Backlog::default();
        assert!(here.push(&[3; 30]));
        here.restore(&WaitingFrames(vec![Bytes(vec![9; 30])]));
        here.restore(&source.save());
        source.save().check().expect("within limits");
        let order: Vec<u8> = std::iter::from_fn(|| here.pop()).map(|frame| frame[0]).collect();
        assert_eq!(order, [1, 2, 3]);
        assert_eq!(here.bytes, 0);
    }

    #[test]
    fn what_is_full_stays_within_the_limits_when_more_is_restored() {
        let mut source = Backlog::default();
        while source.push(&[1; 1000]) {}
        let mut here = Backlog::default();
        assert!(here.push(&[2; 1000]) && here.push(&[3; 100]));
        assert_eq!(here.restore(&source.save()), 2, "there is room for those of the state alone");
        here.save().check().expect("within limits");
        assert!(!here.push(&[4; 1000]));
    }

    #[test]
    fn there_is_a_limit() {
        let mut backlog = Backlog::default();
        let taken = (0..MAX_WAITING_FRAMES * 2).filter(|_| backlog.push(&[0; 64])).count();
        assert_eq!(taken, MAX_WAITING_FRAMES);
        let mut backlog = Backlog::default();
        let taken = (0..MAX_WAITING_BYTES / 30_000).filter(|_| backlog.push(&[0; 65_000])).count();
        assert_eq!(taken, MAX_WAITING_BYTES / 65_000);
        backlog.save().check().expect("within limits");
        let long = WaitingFrames(vec![Bytes(vec![0; MIN_FRAME_BYTES - 1])]);
        assert!(long.check().is_err());
    }
}
