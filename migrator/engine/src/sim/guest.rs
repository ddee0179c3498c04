//! The simulated guest: an oracle of its own memory.

use serde::{Deserialize, Serialize};

use super::{memory::SimMemory, missing::SimMissing};
use crate::pages::{PAGE_SIZE, PageSet};

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimWorkload {
    /// Where all its choices come from.
    pub seed: u64,
    /// Pages that it writes; the others keep what they had at first.
    pub working_set: u64,
    /// Pages a second that it writes in real time; `None` writes a few whenever its memory is looked
    /// at, which makes a run repeatable.
    pub rate: Option<f64>,
    /// One page in so many holds zeros at first; 0 for none.
    pub zero_one_in: u64,
    /// It has a network, on which frames come while it stands still.
    pub network: bool,
}

/// What the guest knows: its state, but for memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimGuest {
    pub(super) workload: SimWorkload,
    random: u64,
    /// How often each page of the working set was written.
    sequences: Vec<u32>,
    /// How often the state was saved, in rehearsals, too: a device writes it to a page of its own each time.
    pub saves: u32,
    /// Frames that its network brought it, in order: the number of the next.
    pub next_frame: u64,
    /// Frames that never came.
    pub frames_lost: u64,
    /// Steps made.
    pub steps: u64,
    /// Pages found that did not hold what was last written there.
    pub errors: u64,
    /// The first such page.
    pub first_error: Option<u64>,
    /// The longest time between two steps, and when the last one was, in nanoseconds since the host
    /// booted. Only a guest that runs in real time looks at the clock.
    pub longest_gap_ns: u64,
    pub(super) last_step_ns: u64,
    /// The line that is being typed.
    typed: Vec<u8>,
}

/// The longest line that a guest hears; what is longer goes on as another.
const MAX_LINE_BYTES: usize = 256;

/// The host writes its clock here when it loads a state, as KVM does; the guest never reads it.
pub(super) const CLOCK_PAGE: u64 = 0;
/// A device writes the number of saves here when it is saved.
pub(super) const DEVICE_PAGE: u64 = 1;
/// Pages from here on are the guest's own.
const FIRST_OWN: u64 = 2;

/// Somebody dropped the machine while the guest waited for a page.
#[derive(Debug)]
pub(super) struct Abandoned;

/// What a guest works on.
pub(super) struct World<'a> {
    pub memory: &'a SimMemory,
    pub missing: &'a SimMissing,
    /// The dirty log, while one is kept.
    pub log: Option<&'a mut PageSet>,
}

impl World<'_> {
    pub fn write(&mut self, page: u64, bytes: &[u8; PAGE_SIZE]) -> Result<(), Abandoned> {
        self.missing.wait_for(page)?;
        self.memory.write(page, bytes);
        if let Some(log) = &mut self.log {
            log.insert(page);
        }
        Ok(())
    }
}

impl SimGuest {
    pub(super) fn new(workload: SimWorkload, page_count: u64) -> SimGuest {
        let working_set = workload.working_set.clamp(1, page_count - FIRST_OWN);
        SimGuest {
            workload: SimWorkload { working_set, ..workload },
            random: workload.seed,
            sequences: vec![0; working_set as usize],
            saves: 0,
            next_frame: 0,
            frames_lost: 0,
            steps: 0,
            errors: 0,
            first_error: None,
            longest_gap_ns: 0,
            last_step_ns: 0,
            typed: Vec::new(),
        }
    }

    /// Writes what memory holds at first.
    pub(super) fn fill(&self, memory: &SimMemory) {
        for page in FIRST_OWN..memory.page_count() {
            let content = self.content(page);
            if content != [0; PAGE_SIZE] {
                memory.write(page, &content);
            }
        }
    }

    /// One step: checks a page of the working set and writes it anew.
    pub(super) fn step(&mut self, world: &mut World<'_>) -> Result<(), Abandoned> {
        let index = next(&mut self.random) % self.sequences.len() as u64;
        let page = FIRST_OWN + index;
        self.check_page(page, world)?;
        self.sequences[index as usize] += 1;
        world.write(page, &self.content(page))?;
        self.steps += 1;
        Ok(())
    }

    /// Looks at every page. Errors are counted, the first is named.
    pub(super) fn check_all(&mut self, world: &mut World<'_>) -> Result<(), Abandoned> {
        for page in FIRST_OWN..world.memory.page_count() {
            self.check_page(page, world)?;
        }
        let mut device = [0; PAGE_SIZE];
        world.missing.wait_for(DEVICE_PAGE)?;
        world.memory.read(DEVICE_PAGE, &mut device);
        if device[..4] != self.saves.to_le_bytes() {
            self.found(DEVICE_PAGE);
        }
        Ok(())
    }

    fn check_page(&mut self, page: u64, world: &mut World<'_>) -> Result<(), Abandoned> {
        world.missing.wait_for(page)?;
        let mut found = [0; PAGE_SIZE];
        world.memory.read(page, &mut found);
        if found != self.content(page) {
            self.found(page);
        }
        Ok(())
    }

    /// A frame came. One that came before, or was overtaken, is an error; those left out were lost on the way.
    pub(super) fn receive_frame(&mut self, number: u64) {
        if number < self.next_frame {
            self.errors += 1;
            return;
        }
        self.frames_lost += number - self.next_frame;
        self.next_frame = number + 1;
    }

    /// Something is typed. Returns what it says to that: each line again.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut answer = Vec::new();
        for &byte in bytes {
            let is_end = matches!(byte, b'\r' | b'\n');
            if !is_end {
                self.typed.push(byte);
            }
            if is_end || self.typed.len() == MAX_LINE_BYTES {
                answer.extend(b"heard ");
                answer.append(&mut self.typed);
                answer.extend(b"\r\n");
            }
        }
        answer
    }

    fn found(&mut self, page: u64) {
        self.errors += 1;
        self.first_error.get_or_insert(page);
    }

    /// What a page holds: which page it is and how often it was written, all over; or zeros.
    fn content(&self, page: u64) -> [u8; PAGE_SIZE] {
        let mut content = [0; PAGE_SIZE];
        let sequence = self.sequences.get((page - FIRST_OWN) as usize).copied().unwrap_or(0);
        let is_zero = match sequence {
            0 => self.workload.zero_one_in != 0 && page.is_multiple_of(self.workload.zero_one_in),
            // Pages that hold something become zero again, now and then.
            n => n % 7 == 3,
        };
        if !is_zero {
            let mut random = self.workload.seed ^ (page << 32) ^ u64::from(sequence);
            for word in content.chunks_exact_mut(8) {
                word.copy_from_slice(&next(&mut random).to_le_bytes());
            }
        }
        content
    }
}

/// SplitMix64.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
