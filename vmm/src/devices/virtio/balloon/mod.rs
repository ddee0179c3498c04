//! A balloon (Virtual I/O Device version 1.2, 5.5): pages that the guest has no use for go back to the host.
//!
//! The guest gives pages up by *inflating* up to the target it is told, and takes them back by *deflating*, also on its
//! own when it runs out of memory; free pages it may *report* without being asked. Either way they read as zeros
//! afterwards, are dirty, and are not backed any more: whoever moves the guest has nothing to send for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vmm_sys_util::eventfd::EventFd;

use super::function::{Function, Next, Work, read_config_bytes, work_off};
use super::queue::{Broken, VirtQueue};
use super::state::{FunctionState, FunctionStateError};
use crate::memory::pieces::Pieces;
use crate::memory::{GuestMemory, PAGE_BYTES};

/// Inflate, deflate, and, as there are no statistics, reporting.
const QUEUES: &[u16] = &[128, 128, 64];
// include/uapi/linux/virtio_balloon.h
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;
/// Page numbers are of pages of this size, whatever the guest's are.
const NUMBER_BYTES: usize = 4;
/// Most page numbers of one chain that count; a driver sends 256.
const MAX_NUMBERS: usize = 1024;

/// What is saved of a balloon beyond its queues. Which pages are in it is the guest's knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BalloonState {
    target: u32,
    actual: u32,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU32,
    actual: AtomicU32,
    has_driver: AtomicBool,
    /// Wakes the device's worker.
    control: Arc<EventFd>,
}

/// A handle on a guest's balloon, for any thread; clones share it.
#[derive(Clone, Debug)]
pub struct BalloonPort {
    shared: Arc<Shared>,
}

impl BalloonPort {
    /// How many pages of 4096 bytes the guest is asked to give up.
    pub fn target_pages(&self) -> u32 {
        self.shared.target.load(Ordering::SeqCst)
    }

    /// Asks the guest to have `pages` pages of 4096 bytes in its balloon. It takes its time, and may not do it at all.
    pub fn set_target_pages(&self, pages: u32) {
        self.shared.target.store(pages, Ordering::SeqCst);
        // Fails only when the counter is full, and then the worker is awake.
        let _ = self.shared.control.write(1);
    }

    /// How many pages of 4096 bytes the guest says are in its balloon.
    pub fn actual_pages(&self) -> u32 {
        self.shared.actual.load(Ordering::SeqCst)
    }

    /// Whether the guest has a driver for it that has begun to work, here.
    pub fn has_driver(&self) -> bool {
        self.shared.has_driver.load(Ordering::SeqCst)
    }
}

/// The device's side of a balloon.
#[derive(Debug)]
pub(super) struct Balloon {
    shared: Arc<Shared>,
    /// The target that the guest was last told of.
    told: u32,
}

impl Balloon {
    /// An empty balloon and its port.
    pub(super) fn new(control: Arc<EventFd>) -> (Balloon, BalloonPort) {
        let shared = Shared {
            target: AtomicU32::new(0),
            actual: AtomicU32::new(0),
            has_driver: AtomicBool::new(false),
            control,
        };
        let shared = Arc::new(shared);
        (Balloon { shared: Arc::clone(&shared), told: 0 }, BalloonPort { shared })
    }
}

/// Gives back the pages that a chain numbers, neighbours together.
fn inflate(memory: &GuestMemory, mut numbers: Pieces<'_>) {
    numbers.truncate(MAX_NUMBERS * NUMBER_BYTES);
    let mut run = 0..0;
    let mut chunk = [0; 256 * NUMBER_BYTES];
    loop {
        let length = numbers.copy_out(0, &mut chunk);
        numbers.skip(length);
        for number in chunk[..length].chunks_exact(NUMBER_BYTES) {
            let number = u32::from_le_bytes(*number.first_chunk().expect("a chunk of 4 bytes"));
            let Some(offset) = memory.offset_of(u64::from(number) * PAGE_BYTES) else { continue };
            let page = offset / PAGE_BYTES;
            match page {
                page if page == run.end => run.end += 1,
                // A Linux balloon counts down as often as up.
                page if page + 1 == run.start => run.start = page,
                page => give_back(memory, std::mem::replace(&mut run, page..page + 1)),
            }
        }
        if length < chunk.len() {
            break;
        }
    }
    give_back(memory, run);
}

fn give_back(memory: &GuestMemory, pages: std::ops::Range<u64>) {
    if !pages.is_empty()
        && let Err(error) = memory.give_back(pages)
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "pages of a balloon stay");
    }
}

impl Function for Balloon {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1 << VIRTIO_BALLOON_F_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let (target, actual) = (&self.shared.target, &self.shared.actual);
        let numbers = [target, actual].map(|number| number.load(Ordering::SeqCst).to_le_bytes());
        read_config_bytes(numbers.as_flattened(), offset, into);
    }

    fn write_config(&mut self, offset: u64, bytes: &[u8]) {
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(bytes)) {
            self.shared.actual.store(u32::from_le_bytes(actual), Ordering::SeqCst);
        }
    }

    fn work(&mut self, queues: &mut [VirtQueue], work: Work<'_>) -> Result<Next, Broken> {
        let [inflating, deflating, reporting] = queues else { return Ok(Next::Wait { source: false }) };
        self.shared.has_driver.store(true, Ordering::SeqCst);
        let target = self.shared.target.load(Ordering::SeqCst);
        if self.told != target {
            self.told = target;
            work.interrupt.changed();
        }
        let memory = work.memory;
        let mut more = work_off(inflating, work, |chain| {
            if let Ok(chain) = chain {
                inflate(memory, chain.readable);
            }
            0
        })?;
        // Pages that are taken back are simply used again.
        more |= work_off(deflating, work, |_| 0)?;
        more |= work_off(reporting, work, |chain| {
            if let Ok(chain) = chain {
                chain.writable.whole_pages(|pages| give_back(memory, pages));
            }
            0
        })?;
        Ok(if more { Next::Again } else { Next::Wait { source: false } })
    }

    fn reset(&mut self) {
        self.shared.actual.store(0, Ordering::SeqCst);
        self.shared.has_driver.store(false, Ordering::SeqCst);
        // A driver that sets the device up anew reads the target by itself.
        self.told = self.shared.target.load(Ordering::SeqCst);
    }

    fn save(&self) -> FunctionState {
        let [target, actual] =
            [&self.shared.target, &self.shared.actual].map(|number| number.load(Ordering::SeqCst));
        FunctionState::Balloon(BalloonState { target, actual })
    }

    fn check(&self, state: &FunctionState) -> Result<(), FunctionStateError> {
        match state {
            FunctionState::Balloon(_) => Ok(()),
            _ => Err(FunctionStateError::Kind),
        }
    }

    fn restore(&mut self, state: &FunctionState) {
        let FunctionState::Balloon(BalloonState { target, actual }) = *state else { return };
        self.shared.target.store(target, Ordering::SeqCst);
        self.shared.actual.store(actual, Ordering::SeqCst);
        // Told or not when it was saved: once more does no harm.
        self.told = !target;
    }
}

#[cfg(test)]
mod tests;
