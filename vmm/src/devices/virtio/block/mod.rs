//! A disk (Virtual I/O Device version 1.2, 5.2) on a raw file or a block device.
//!
//! - `disk`: the file, and whether this machine has it;
//! - `lock`: the locks on it, and who has them;
//! - `request`: one request.
//!
//! Requests are done one after the other by the worker, straight between file and guest memory. Each is done when it is
//! given back, so a paused machine has none under way. What is to be written is there as a whole before its
//! first byte is: a machine that ends while a page of it is missing writes nothing. What was written is in the host's page
//! cache; it is on the disk after a flush, and all of it is when the disk is released.

mod disk;
mod lock;
mod request;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use self::request::{MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_ZERO_SECTORS};
use super::function::{Function, Next, Work, read_config_bytes, work_off};
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};
use crate::memory::pieces::MAX_PIECES;

pub(crate) use self::disk::HeldDisk;
pub use self::disk::{Disk, DiskError, SECTOR_BYTES};
pub use self::lock::LockHolder;

const QUEUES: &[u16] = &[256];
/// Bytes of the configuration, up to and with `write_zeroes_may_unmap`.
const CONFIG_BYTES: usize = 60;

/// The device's side of a disk.
#[derive(Debug)]
pub(super) struct Block {
    disk: Arc<HeldDisk>,
}

impl Block {
    /// A disk, and the handle by which it is taken and released.
    pub(super) fn new(disk: Disk) -> (Block, Arc<HeldDisk>) {
        let disk = Arc::new(HeldDisk::new(disk));
        (Block { disk: Arc::clone(&disk) }, disk)
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.disk().bytes() / SECTOR_BYTES).to_le_bytes());
        // seg_max: without the request's header and status.
        put(12, &(MAX_PIECES as u32 - 2).to_le_bytes());
        put(20, &(SECTOR_BYTES as u32).to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
        // discard_sector_alignment
        put(44, &(4096 / SECTOR_BYTES as u32).to_le_bytes());
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        // write_zeroes_may_unmap
        put(56, &[1]);
        config
    }
}

impl Function for Block {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always =
            1 << blk::VIRTIO_BLK_F_SEG_MAX | 1 << blk::VIRTIO_BLK_F_BLK_SIZE | 1 << blk::VIRTIO_BLK_F_FLUSH;
        always
            | match self.disk.disk().is_read_only() {
                true => 1 << blk::VIRTIO_BLK_F_RO,
                false => 1 << blk::VIRTIO_BLK_F_DISCARD | 1 << blk::VIRTIO_BLK_F_WRITE_ZEROES,
            }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        read_config_bytes(&self.config(), offset, into);
    }

    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken> {
        let [queue] = queues else { return Ok(Next::Wait { source: false }) };
        let held = self.disk.file();
        let Some(file) = &*held else {
            // Another machine has it. Better the guest waits than that two write, or that it reads what is not so.
            return Ok(Next::Wait { source: false });
        };
        let disk = self.disk.disk();
        let more =
            work_off(queue, work, |chain| chain.map_or(0, |chain| request::handle(file, disk, chain)))?;
        Ok(if more { Next::Again } else { Next::Wait { source: false } })
    }

    fn started(&mut self, _first: bool) {
        // The owner takes disks before, where it can be told of a failure. Whoever forgot that gets them here, if free.
        if let Err(error) = self.disk.take() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a guest runs without its disk, and waits for it"
            );
        }
    }

    fn reset(&mut self) {}

    fn save(&self) -> FunctionState {
        FunctionState::Block
    }

    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError> {
        match state {
            FunctionState::Block => Ok(()),
            _ => Err(FunctionStateError::Kind),
        }
    }

    fn restore(&mut self, _state: &FunctionState) {}
}
