//! The pages an oracle owns, numbered without holes.

use super::stamp::{PAGE_SIZE, Page};

/// Pages `start..end`, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageRange {
    /// First page.
    pub start: u64,
    /// Page after the last.
    pub end: u64,
}

impl PageRange {
    /// How many pages.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `part`-th of `parts` slices of nearly equal size.
    #[must_use]
    pub const fn slice(&self, part: u64, parts: u64) -> Self {
        Self {
            start: self.start + self.len() * part / parts,
            end: self.start + self.len() * (part + 1) / parts,
        }
    }
}

/// Memory under the oracle: up to [`Memory::MAX_RANGES`] ranges of page numbers, taken as one array of *indices*.
///
/// In a bare-metal guest a page number is its physical address / 4096; in a program, an offset into its mapping.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    base: *mut u8,
    ranges: [PageRange; Self::MAX_RANGES],
    count: usize,
}

impl Memory {
    /// Most ranges: a PC has three or four (below 640 KiB, below and above 4 GiB).
    pub const MAX_RANGES: usize = 8;

    #[must_use]
    /// Memory whose page `n` lies at `base + n * 4096`, with no pages yet.
    ///
    /// # Safety
    /// All pages pushed later must be mapped and used by nothing but oracles over this memory, for ever; and of two
    /// oracles on two threads, no two may touch the same index.
    pub const unsafe fn new(base: *mut u8) -> Self {
        Self { base, ranges: [PageRange { start: 0, end: 0 }; Self::MAX_RANGES], count: 0 }
    }

    /// Appends a range; its pages take the next indices. Ranges beyond [`Memory::MAX_RANGES`] and empty ones are left out.
    pub const fn push(&mut self, range: PageRange) {
        if self.count < Self::MAX_RANGES && !range.is_empty() {
            self.ranges[self.count] = range;
            self.count += 1;
        }
    }

    /// The ranges, in the order of their indices.
    #[must_use]
    pub fn ranges(&self) -> &[PageRange] {
        &self.ranges[..self.count]
    }

    /// How many pages in all.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.ranges().iter().map(PageRange::len).sum()
    }

    /// Number of the page with this index.
    ///
    /// # Panics
    /// If there is no such page.
    #[inline]
    #[must_use]
    pub fn number(&self, index: u64) -> u64 {
        let mut left = index;
        for range in self.ranges() {
            if left < range.len() {
                return range.start + left;
            }
            left -= range.len();
        }
        panic!("no page with index {index}")
    }

    /// The bytes of the page with this index, and its number.
    #[inline]
    pub(super) fn page(&self, index: u64) -> (u64, &Page) {
        let number = self.number(index);
        // SAFETY: `number` is in a pushed range, so mapped and no one else's (contract of `new`).
        (number, unsafe { &*self.base.wrapping_add(number as usize * PAGE_SIZE).cast() })
    }

    /// The same, to be written.
    #[inline]
    pub(super) fn page_mut(&mut self, index: u64) -> (u64, &mut Page) {
        let number = self.number(index);
        // SAFETY: as in `page`; other threads' copies of this memory touch other indices (contract of `new`).
        (number, unsafe { &mut *self.base.wrapping_add(number as usize * PAGE_SIZE).cast() })
    }
}
