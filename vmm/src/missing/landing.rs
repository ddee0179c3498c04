//! Where missing pages are received before they are installed: an area as large as the guest's memory, each page at its
//! own number.
//!
//! Copying a missing page in costs the kernel a fresh page and the copy, page by page, while the guest waits. An area
//! that was backed with huge pages beforehand costs neither: bytes are received at their place in it, and a whole block
//! of 2 MiB is then *moved*, one page-table entry changing hands. The guest keeps its huge pages, and each page of
//! memory is backed once: in the area, or in the guest. (Moving blocks out of a small area that is backed anew each time
//! was measured, too: its fresh huge pages made it slower than copying whenever they had gone back to the host beneath.)

use std::ops::Range;

use crate::config::{Backing, HUGE_PAGE_BYTES};
use crate::memory::{self, AdviseError, GuestMemory, MapError, Mapping, PAGE_BYTES};

/// Pages that can be moved in one piece.
pub(super) const PAGES_PER_BLOCK: u64 = HUGE_PAGE_BYTES / PAGE_BYTES;

/// Memory to receive a guest's pages in, at their own numbers.
#[derive(Debug)]
pub struct LandingArea {
    mapping: Mapping,
}

impl LandingArea {
    /// An area for all pages of `memory`, not backed yet.
    pub fn new(memory: &GuestMemory) -> Result<LandingArea, MapError> {
        Mapping::new(memory.size_bytes(), Backing::Anonymous).map(|mapping| LandingArea { mapping })
    }

    /// Backs all of it, so that receiving finds memory that is there.
    pub fn populate(&self) -> Result<(), AdviseError> {
        memory::populate(&self.mapping, 0..self.mapping.len() as u64 / PAGE_BYTES, &|| true)
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
