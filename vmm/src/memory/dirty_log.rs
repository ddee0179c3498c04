//! The dirty log: which pages were written since they were last taken, by the guest or by the VMM.
//!
//! ```text
//! off ── start ──► on, every page dirty once ── harvest ──► on ── harvest ──► on …
//!  ▲                                                                     │
//!  └─────────────────────────────── stop ────────────────────────────────┘
//! ```
//! A harvest reads and clears in one act, so a page cannot be copied before its bit is cleared: whatever the guest
//! writes after the harvest is in the next one. Buffers are allocated when the log starts, never on the way.

use std::io;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use thiserror::Error;

use super::GuestMemory;
use super::bitmap::PAGES_PER_WORD;
use super::layout::{Stretch, stretches};
use crate::kvm::dirty_ioctl;

/// The dirty log could not be started, stopped or taken.
#[derive(Debug, Error)]
pub enum DirtyLogError {
    /// A harvest with the log off.
    #[error("take the dirty log: it was never started")]
    Off,
    /// A bitmap shorter than the memory.
    #[error("take the dirty log into {words} words: memory has {needed}")]
    ShortBitmap {
        /// Words given.
        words: usize,
        /// Words needed, [`GuestMemory::bitmap_words`].
        needed: usize,
    },
    /// Logging could not be turned on or off.
    #[error("turn dirty logging of slot {slot} {}", if *on { "on" } else { "off" })]
    Switch {
        /// The memory slot.
        slot: u32,
        /// What was asked for.
        on: bool,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The log could not be read.
    #[error("take the dirty log of slot {slot}")]
    Get {
        /// The memory slot.
        slot: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The log could not be cleared.
    #[error("clear the dirty log of slot {slot}")]
    Clear {
        /// The memory slot.
        slot: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// How this host clears the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// GET reads, CLEAR protects anew; and the log starts with every bit set, so starting costs next to nothing.
    ManualInitiallySet,
    /// GET reads, CLEAR protects anew.
    Manual,
    /// GET does both, for the whole slot, with KVM's lock held.
    Plain,
}

#[derive(Debug)]
enum State {
    Off,
    /// `everything`: nothing was harvested yet, so every page counts as dirty.
    On {
        everything: bool,
        buffer: Box<[u64]>,
    },
}

/// The memory slots of a machine and their dirty log.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    slots: Vec<Stretch>,
    protection: Protection,
    state: State,
}

impl DirtyLog {
    /// Hands `memory` to KVM, one slot a stretch, with the log off.
    ///
    /// How the log is cleared must be chosen before the first slot logs, so it is chosen here.
    pub(crate) fn attach(vm: &VmFd, memory: &GuestMemory) -> io::Result<DirtyLog> {
        let protection = choose_protection(vm);
        let slots: Vec<Stretch> = stretches(memory.size_bytes()).collect();
        let log = DirtyLog { slots, protection, state: State::Off };
        for slot in 0..log.slots.len() as u32 {
            log.set_slot(vm, memory, slot, 0)?;
        }
        Ok(log)
    }

    /// Starts the log. From here every page counts as dirty once.
    pub(crate) fn start(&mut self, vm: &VmFd, memory: &GuestMemory) -> Result<(), DirtyLogError> {
        if let State::On { everything, .. } = &mut self.state {
            // Already on: forget what was harvested, and nothing more.
            *everything = true;
            return Ok(());
        }
        self.switch(vm, memory, true)?;
        let longest = self.slots.iter().map(|slot| slot.bytes).max().unwrap_or(0);
        let words = (longest / super::PAGE_BYTES).div_ceil(PAGES_PER_WORD) as usize;
        self.state = State::On { everything: true, buffer: vec![0; words].into() };
        Ok(())
    }

    /// Stops the log; nothing is logged until it is started again.
    pub(crate) fn stop(&mut self, vm: &VmFd, memory: &GuestMemory) -> Result<(), DirtyLogError> {
        if matches!(self.state, State::Off) {
            return Ok(());
        }
        self.state = State::Off;
        self.switch(vm, memory, false)
    }

    /// Takes the log: sets the bits of all pages written since the last harvest in `into`, and returns how many those
    /// are. Bits already set in `into` stay.
    pub(crate) fn harvest(
        &mut self,
        vm: &VmFd,
        memory: &GuestMemory,
        into: &mut [u64],
    ) -> Result<u64, DirtyLogError> {
        let State::On { everything, buffer } = &mut self.state else {
            return Err(DirtyLogError::Off);
        };
        let needed = memory.bitmap_words();
        if into.len() < needed {
            return Err(DirtyLogError::ShortBitmap { words: into.len(), needed });
        }
        let mut dirty = 0;
        for (slot, stretch) in self.slots.iter().enumerate() {
            let pages = stretch.pages();
            let first_word = (pages.start / PAGES_PER_WORD) as usize;
            let page_count = pages.end - pages.start;
            let words = &mut buffer[..page_count.div_ceil(PAGES_PER_WORD) as usize];
            // GET, then CLEAR, and only then may anyone copy: a write between CLEAR and copy is logged again, a write
            // before CLEAR is in the copy.
            take_slot(vm, self.protection, slot as u32, page_count, words)?;
            for (index, word) in words.iter().enumerate() {
                let own = memory.written().take_word(first_word + index);
                let bits = if *everything { word_of_all(page_count, index) } else { word | own };
                if bits != 0 {
                    into[first_word + index] |= bits;
                    dirty += u64::from(bits.count_ones());
                }
            }
        }
        *everything = false;
        Ok(dirty)
    }

    fn switch(&self, vm: &VmFd, memory: &GuestMemory, on: bool) -> Result<(), DirtyLogError> {
        let flags = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        for slot in 0..self.slots.len() as u32 {
            self.set_slot(vm, memory, slot, flags).map_err(|source| DirtyLogError::Switch {
                slot,
                on,
                source,
            })?;
        }
        Ok(())
    }

    fn set_slot(&self, vm: &VmFd, memory: &GuestMemory, slot: u32, flags: u32) -> io::Result<()> {
        let stretch = self.slots[slot as usize];
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: stretch.guest_address,
            memory_size: stretch.bytes,
            userspace_addr: memory.as_ptr() as u64 + stretch.offset,
        };
        // SAFETY: the stretch lies within `memory`, which the machine keeps mapped until KVM's VM is closed; slots do
        // not overlap, as stretches do not.
        unsafe { vm.set_user_memory_region(region) }.map_err(Into::into)
    }
}

/// GET and CLEAR of one slot, into `words`.
fn take_slot(
    vm: &VmFd,
    protection: Protection,
    slot: u32,
    page_count: u64,
    words: &mut [u64],
) -> Result<(), DirtyLogError> {
    dirty_ioctl::get(vm, slot, page_count, words).map_err(|source| DirtyLogError::Get { slot, source })?;
    if protection == Protection::Plain {
        return Ok(());
    }
    // Only from the first to the last word with a bit: an idle guest's harvest then needs no CLEAR at all.
    let Some(first) = words.iter().position(|word| *word != 0) else {
        return Ok(());
    };
    let last = words.iter().rposition(|word| *word != 0).unwrap_or(first);
    let first_page = first as u64 * PAGES_PER_WORD;
    let pages = ((last + 1) as u64 * PAGES_PER_WORD).min(page_count) - first_page;
    dirty_ioctl::clear(vm, slot, first_page, pages, &words[first..=last])
        .map_err(|source| DirtyLogError::Clear { slot, source })
}

/// Word `index` of the bitmap of a slot all of whose `page_count` pages are dirty.
fn word_of_all(page_count: u64, index: usize) -> u64 {
    match page_count - index as u64 * PAGES_PER_WORD {
        left if left >= PAGES_PER_WORD => u64::MAX,
        left => (1 << left) - 1,
    }
}

fn choose_protection(vm: &VmFd) -> Protection {
    let wanted = [
        (Protection::ManualInitiallySet, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET),
        (Protection::Manual, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE),
    ];
    for (protection, flags) in wanted {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            args: [u64::from(flags), 0, 0, 0],
            ..Default::default()
        };
        if vm.enable_cap(&cap).is_ok() {
            return protection;
        }
    }
    Protection::Plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_slot_has_no_bits_beyond_it() {
        assert_eq!(word_of_all(64, 0), u64::MAX);
        assert_eq!(word_of_all(65, 0), u64::MAX);
        assert_eq!(word_of_all(65, 1), 1);
        assert_eq!(word_of_all(127, 1), u64::MAX >> 1);
    }
}
