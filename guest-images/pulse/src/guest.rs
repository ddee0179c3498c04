//! What all vCPUs share: the telemetry pages, and what was decided at boot.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use telemetry::oracle::{Memory, PageRange};
use telemetry::{CommandLine, PAGE_SIZE, TELEMETRY_ADDRESS, Telemetry};

/// Decided at boot by vCPU 0, before any other runs; constant from then on.
pub struct Guest {
    /// The command line.
    pub line: CommandLine,
    /// The TSC's frequency.
    pub tsc_khz: u64,
    /// Pages under the oracle; the first of them are the working set.
    pub owned: Memory,
    /// Indices of the working set.
    pub working_set: PageRange,
    /// How many pages are filled.
    pub filled_pages: u64,
    /// Table of sequences, one word for each page of the working set.
    pub table: *mut u64,
    /// Whether firmware ran, and may have left pages anywhere that are not zero.
    pub firmware: bool,
}

struct Shared(UnsafeCell<MaybeUninit<Guest>>);
// SAFETY: written once by `set`, before other vCPUs start, and only read after.
unsafe impl Sync for Shared {}
static GUEST: Shared = Shared(UnsafeCell::new(MaybeUninit::uninit()));

impl Guest {
    /// vCPU `vcpu`'s slice of a range of indices.
    pub fn slice(&self, range: PageRange, vcpu: usize) -> PageRange {
        range.slice(vcpu as u64, self.line.vcpus)
    }

    /// Indices beyond the working set.
    pub fn rest(&self) -> PageRange {
        PageRange { start: self.working_set.end, end: self.owned.page_count() }
    }

    /// Whether the page with this index may hold something, though nobody wrote it: after firmware any page may, and in
    /// the first megabyte are the boot protocol's structures and the other vCPUs' start code. No other page is touched.
    pub fn must_scrub(&self, index: u64) -> bool {
        self.firmware || self.owned.number(index) < TELEMETRY_ADDRESS / PAGE_SIZE as u64
    }

    /// vCPU `vcpu`'s part of the table.
    ///
    /// # Safety
    /// Once for each vCPU: the slice is exclusive.
    pub unsafe fn table(&self, vcpu: usize) -> &'static mut [u64] {
        let slice = self.slice(self.working_set, vcpu);
        // SAFETY: slices of different vCPUs do not overlap, the table has a word for each index of the working set, and
        // the caller promises to ask once.
        unsafe { core::slice::from_raw_parts_mut(self.table.add(slice.start as usize), slice.len() as usize) }
    }
}

/// Stores what was decided.
///
/// # Safety
/// Once, by vCPU 0, before other vCPUs start.
pub unsafe fn set(guest: Guest) -> &'static Guest {
    // SAFETY: the caller's promise: nobody reads yet.
    unsafe { (*GUEST.0.get()).write(guest) }
}

/// What was decided. Only after boot.
pub fn get() -> &'static Guest {
    // SAFETY: `set` ran before this vCPU was started, or on this vCPU.
    unsafe { (*GUEST.0.get()).assume_init_ref() }
}

/// The telemetry pages.
pub fn telemetry() -> &'static Telemetry {
    // SAFETY: RAM in every machine, kept out of all else by `memory::divide`; all fields are atomics, valid as any bits.
    unsafe { &*core::ptr::with_exposed_provenance(TELEMETRY_ADDRESS as usize) }
}
