//! Where missing pages are received before they are installed: an area as large as the guest's memory, each page at its
//! own number.
//!
//! Copying a missing page in costs the kernel a fresh page and the copy, page by page, while the guest waits. An area
//! that was backed with huge pages beforehand costs neither: bytes are received at their place in it, and a whole block
//! of 2 MiB is then *moved*, one page-table entry changing hands. The guest keeps its huge pages, and each page of
//! memory is backed once: in the area, or in the guest. A block of which any page was installed otherwise can be moved no
//! more, so the area gives it back at once: area and guest together never hold more than the guest's memory, and a block
//! that is just being received. (Moving blocks out of a small area that is backed anew each time was measured, too: its
//! fresh huge pages made it slower than copying whenever they had gone back to the host beneath.)
//!
//! ```text
//!              take                leave
//!   backed ───────────► taken ───────────────► empty
//!      └────────── give_back: no whole block ────►┘
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::{Backing, HUGE_PAGE_BYTES};
use crate::memory::{self, AdviseError, GuestMemory, MapError, Mapping, PAGE_BYTES};

/// Pages that can be moved in one piece.
pub(super) const PAGES_PER_BLOCK: u64 = HUGE_PAGE_BYTES / PAGE_BYTES;

/// States of a block.
const BACKED: u8 = 0;
const TAKEN: u8 = 1;
const EMPTY: u8 = 2;

/// Memory to receive a guest's pages in, at their own numbers.
#[derive(Debug)]
pub struct LandingArea {
    mapping: Mapping,
    /// What is with each block.
    blocks: Box<[AtomicU8]>,
}

impl LandingArea {
    /// An area for all pages of `memory`, not backed yet.
    pub fn new(memory: &GuestMemory) -> Result<LandingArea, MapError> {
        let mapping = Mapping::new(memory.size_bytes(), Backing::Anonymous)?;
        let blocks = memory.page_count().div_ceil(PAGES_PER_BLOCK);
        Ok(LandingArea { mapping, blocks: (0..blocks).map(|_| AtomicU8::new(BACKED)).collect() })
    }

    /// Backs all of it, so that receiving finds memory that is there, as long as `is_wanted` says yes.
    pub fn populate_while(&self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), AdviseError> {
        memory::populate(&self.mapping, 0..self.mapping.len() as u64 / PAGE_BYTES, is_wanted)
    }

    /// Takes the block at `first_page` to receive its pages there. Returns whether it was still to be had.
    pub(super) fn take(&self, first_page: u64) -> bool {
        self.change(first_page / PAGES_PER_BLOCK, BACKED, TAKEN)
    }

    /// Nothing more is received in or installed from the blocks of `pages`, which were taken.
    pub(super) fn leave(&self, pages: &Range<u64>) {
        self.empty(pages, TAKEN);
    }

    /// Single pages of these blocks were installed: unless they are taken just now they are of no use any more.
    pub(super) fn give_back(&self, pages: &Range<u64>) {
        self.empty(pages, BACKED);
    }

    fn empty(&self, pages: &Range<u64>, from: u8) {
        for part in in_blocks(pages.clone()) {
            let block = part.start / PAGES_PER_BLOCK;
            if self.change(block, from, EMPTY) {
                let start = block * HUGE_PAGE_BYTES;
                let end = (start + HUGE_PAGE_BYTES).min(self.mapping.len() as u64);
                // Its memory would be needed twice otherwise, but nothing is wrong with what is in it.
                if let Err(error) = self.mapping.discard(start..end) {
                    tracing::warn!(%error, block, "a landing area keeps memory that it needs no more");
                }
            }
        }
    }

    fn change(&self, block: u64, from: u8, to: u8) -> bool {
        let state = self.blocks.get(block as usize);
        // The thread that takes a block has it alone, and receives and installs its bytes in that order.
        state.is_some_and(|state| {
            state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
        })
    }

    /// Sets the bit of every page of it that is backed, as [`GuestMemory::resident`].
    #[cfg(test)]
    pub(super) fn resident(&self, into: &mut [u64]) {
        memory::resident_of(&self.mapping, into).expect("residency");
    }

    /// Host address of the first page. Valid for as long as the area.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    /// The bytes of `pages`.
    ///
    /// # Safety
    /// Nobody writes other bytes there meanwhile.
    pub(super) unsafe fn bytes(&self, pages: Range<u64>) -> &[u8] {
        let (start, end) = ((pages.start * PAGE_BYTES) as usize, (pages.end * PAGE_BYTES) as usize);
        assert!(start <= end && end <= self.mapping.len(), "pages {pages:?} lie beyond the area");
        // SAFETY: within the mapping; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().add(start), end - start) }
    }
}

/// Cuts a range at the borders of blocks.
pub(super) fn in_blocks(pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut from = pages.start;
    std::iter::from_fn(move || {
        let border = (from / PAGES_PER_BLOCK + 1) * PAGES_PER_BLOCK;
        let part = from..border.min(pages.end);
        from = part.end;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_borders() {
        let cut = |pages| in_blocks(pages).collect::<Vec<_>>();
        assert_eq!(cut(5..5), []);
        assert_eq!(cut(0..600), [0..512, 512..600]);
        assert_eq!(cut(510..1030), [510..512, 512..1024, 1024..1030]);
    }
}
