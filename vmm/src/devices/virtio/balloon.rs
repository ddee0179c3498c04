//! A balloon (Virtual I/O Device version 1.2, 5.5): pages that the guest has no use for go back to the host.
//!
//! The guest gives pages up by *inflating* up to the target it is told, and takes them back by *deflating*, also on its
//! own when it runs out of memory; free pages it may *report* without being asked. Either way they read as zeros
//! afterwards, are dirty, and are not backed any more: whoever moves the guest has nothing to send for them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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
        let shared = Shared { target: AtomicU32::new(0), actual: AtomicU32::new(0), control };
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

    fn source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn started(&mut self, _first: bool) {}

    fn stopped(&mut self) {}

    fn reset(&mut self) {
        self.shared.actual.store(0, Ordering::SeqCst);
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::driver::{Rig, until};
    use crate::devices::virtio::hostile;

    const NUMBERS: u64 = 0x20_0000;
    const PAGES: u64 = 0x30_0000;

    fn device(memory: Option<&Rig>) -> (Rig, BalloonPort) {
        let mut port = None;
        let make = |control| {
            let (balloon, its_port) = Balloon::new(control);
            port = Some(its_port);
            Box::new(balloon) as Box<dyn Function>
        };
        let rig = match memory {
            Some(other) => Rig::with_memory(Arc::clone(&other.memory), make),
            None => Rig::new(make),
        };
        (rig, port.expect("made"))
    }

    fn resident(rig: &Rig, page: u64) -> bool {
        let mut bits = vec![0; rig.memory.bitmap_words()];
        rig.memory.resident(&mut bits).expect("asks");
        bits[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// Fills `count` pages and clears the dirty bitmap.
    fn fill(rig: &Rig, count: u64) {
        for page in 0..count {
            rig.memory.write(PAGES + page * 4096, &[7; 4096]).expect("in memory");
        }
        for word in 0..rig.memory.bitmap_words() {
            rig.memory.written().take_word(word);
        }
    }

    #[test]
    fn pages_in_the_balloon_are_zeros_dirty_and_not_backed() {
        let (rig, port) = device(None);
        let mut driver = rig.driver(3);
        driver.set_up(0);
        rig.device.open(true);
        port.set_target_pages(5);
        until("the guest is told", || driver.read(0x60) & 2 == 2);
        assert_eq!(driver.read(0x100), 5);
        fill(&rig, 8);
        let first = (PAGES / 4096) as u32;
        // Two runs, one counting down, one alone, one that is no memory.
        let numbers = [first, first + 1, first + 5, first + 4, first + 7, u32::MAX];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        rig.memory.write(NUMBERS, &bytes).expect("in memory");
        driver.add(0, &[(NUMBERS, bytes.len() as u32, false)]);
        driver.kick(0);
        assert_eq!(driver.wait_used(0), 0);
        driver.write(0x104, 5);
        assert_eq!(port.actual_pages(), 5);
        for page in 0..8u32 {
            let given = numbers.contains(&(first + page));
            let dense = u64::from(first + page);
            assert_eq!(rig.memory.written().is_marked(dense), given, "page {page}");
            assert_eq!(resident(&rig, dense), !given, "page {page}");
        }
        let mut bytes = [1; 16];
        rig.memory.read(PAGES, &mut bytes).expect("in memory");
        assert_eq!(bytes, [0; 16]);
        driver.add(1, &[(NUMBERS, 4, false)]);
        driver.kick(1);
        assert_eq!(driver.wait_used(1), 0);
    }

    #[test]
    fn reported_pages_go_whole_or_not_at_all() {
        let (rig, _port) = device(None);
        let mut driver = rig.driver(3);
        driver.set_up(0);
        rig.device.open(true);
        fill(&rig, 4);
        driver.add(2, &[(PAGES + 100, 3 * 4096, true)]);
        driver.kick(2);
        driver.wait_used(2);
        let first = PAGES / 4096;
        assert_eq!([0, 1, 2, 3].map(|page| resident(&rig, first + page)), [true, false, false, true]);
    }

    /// Whoever brings missing pages believes that those there are stay.
    #[test]
    fn nothing_is_given_back_while_missing_pages_are_served() {
        if let Err(reason) = crate::MissingPages::probe() {
            println!("skipped: nothing_is_given_back_while_missing_pages_are_served: {reason}");
            return;
        }
        let (rig, _port) = device(None);
        let mut driver = rig.driver(3);
        driver.set_up(0);
        fill(&rig, 1);
        rig.memory.populate(0..rig.memory.page_count()).expect("backs");
        let missing = crate::MissingPages::open(&rig.memory).expect("serves");
        rig.device.open(true);
        driver.add(2, &[(PAGES, 4096, true)]);
        driver.kick(2);
        driver.wait_used(2);
        assert!(resident(&rig, PAGES / 4096));
        missing.close().expect("ends");
        driver.add(2, &[(PAGES, 4096, true)]);
        driver.kick(2);
        driver.wait_used(2);
        assert!(!resident(&rig, PAGES / 4096));
    }

    #[test]
    fn target_and_size_move_on_with_the_state() {
        let (first, port) = device(None);
        let mut driver = first.driver(3);
        driver.set_up(0);
        port.set_target_pages(9);
        driver.write(0x104, 4);
        let state = first.device.save();
        let (second, port) = device(Some(&first));
        second.device.check(&state).expect("fits");
        second.device.restore(&state);
        assert_eq!((port.target_pages(), port.actual_pages()), (9, 4));
        second.device.open(true);
        let driver = driver.on(Arc::clone(&second.device) as _, &second.memory);
        until("the guest is told", || driver.read(0x60) & 2 == 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            hostile::balloon(&script);
        }
    }
}
