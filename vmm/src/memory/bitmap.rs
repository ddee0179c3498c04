//! One bit a page, set by whoever writes guest memory on the VMM's behalf.
//!
//! KVM's dirty log knows only what the *guest* wrote. Rings, used buffers and loaded kernels are written by the VMM, and
//! a page lost that way is the oldest bug of the trade (Cloud Hypervisor #2458). So every write goes through `vm-memory`,
//! whose regions carry a slice of this bitmap, and a harvest ORs it in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use super::layout::PAGE_BYTES;

/// Pages per word of a bitmap.
pub(crate) const PAGES_PER_WORD: u64 = 64;

/// A bit a page, shared and lock-free.
#[derive(Debug)]
pub(crate) struct AtomicPageBits {
    words: Box<[AtomicU64]>,
    page_count: u64,
}

impl AtomicPageBits {
    pub(crate) fn new(page_count: u64) -> Self {
        let words = (0..page_count.div_ceil(PAGES_PER_WORD)).map(|_| AtomicU64::new(0)).collect();
        AtomicPageBits { words, page_count }
    }

    /// Marks the pages that hold bytes `offset..offset + bytes`; what lies outside memory is ignored.
    pub(crate) fn mark_bytes(&self, offset: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let last = (offset.saturating_add(bytes - 1) / PAGE_BYTES).min(self.page_count.saturating_sub(1));
        for page in offset / PAGE_BYTES..=last {
            // Release: who sees the bit also sees the bytes written before it.
            self.words[(page / PAGES_PER_WORD) as usize]
                .fetch_or(1 << (page % PAGES_PER_WORD), Ordering::Release);
        }
    }

    /// Whether a page is marked.
    pub(crate) fn is_marked(&self, page: u64) -> bool {
        page < self.page_count
            && self.words[(page / PAGES_PER_WORD) as usize].load(Ordering::Acquire) >> (page % PAGES_PER_WORD)
                & 1
                == 1
    }

    /// Takes word `index`: returns its bits and clears them.
    pub(crate) fn take_word(&self, index: usize) -> u64 {
        let word = &self.words[index];
        // Almost every word is zero; a plain load spares the locked exchange.
        if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) }
    }
}

/// The part of the bitmap that belongs to one region of guest memory, for `vm-memory`.
#[derive(Clone, Debug)]
pub struct RegionBits {
    bits: Arc<AtomicPageBits>,
    start_offset: u64,
}

impl RegionBits {
    pub(crate) fn new(bits: Arc<AtomicPageBits>, start_offset: u64) -> Self {
        RegionBits { bits, start_offset }
    }
}

impl WithBitmapSlice<'_> for RegionBits {
    type S = Self;
}

impl BitmapSlice for RegionBits {}

impl Bitmap for RegionBits {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.bits.mark_bytes(self.start_offset + offset as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.bits.is_marked((self.start_offset + offset as u64) / PAGE_BYTES)
    }

    fn slice_at(&self, offset: usize) -> Self {
        RegionBits { bits: Arc::clone(&self.bits), start_offset: self.start_offset + offset as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_marks_every_page_it_touches_and_no_other() {
        let bits = AtomicPageBits::new(130);
        bits.mark_bytes(PAGE_BYTES * 63 + 4095, 2);
        assert!(!bits.is_marked(62) && bits.is_marked(63) && bits.is_marked(64) && !bits.is_marked(65));
        assert_eq!(bits.take_word(0), 1 << 63);
        assert_eq!(bits.take_word(0), 0);
        assert_eq!(bits.take_word(1), 1);
    }

    #[test]
    fn writes_of_nothing_or_beyond_the_end_are_harmless() {
        let bits = AtomicPageBits::new(65);
        bits.mark_bytes(0, 0);
        bits.mark_bytes(PAGE_BYTES * 64, u64::MAX);
        bits.mark_bytes(PAGE_BYTES * 70, 10);
        assert!(bits.is_marked(64) && !bits.is_marked(0) && !bits.is_marked(70));
    }

    #[test]
    fn a_slice_of_a_slice_knows_its_place() {
        let bits = Arc::new(AtomicPageBits::new(64));
        let region = RegionBits::new(Arc::clone(&bits), PAGE_BYTES * 10);
        region.slice_at(PAGE_BYTES as usize).slice_at(PAGE_BYTES as usize).mark_dirty(0, 1);
        assert!(bits.is_marked(12));
        assert!(region.dirty_at(2 * PAGE_BYTES as usize));
    }
}
