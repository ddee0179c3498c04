//! Page numbers and half-open runs of them.

/// Bytes in a page. The only place where the engine says 4096.
pub const PAGE_SIZE: usize = 4096;

/// A page's place in guest RAM, counted from 0.
pub type PageNumber = u64;

/// A run of neighbouring pages: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The run's first page.
    pub first: PageNumber,
    /// How many pages it has.
    pub count: u64,
}

impl PageRun {
    /// The run `first .. first + count`.
    pub const fn new(first: PageNumber, count: u64) -> PageRun {
        PageRun { first, count }
    }

    /// One page.
    pub const fn one(page: PageNumber) -> PageRun {
        PageRun { first: page, count: 1 }
    }

    /// The page after the last one; `None` where that overflows, as only a hostile peer's does.
    pub const fn checked_end(&self) -> Option<PageNumber> {
        self.first.checked_add(self.count)
    }

    /// The page after the last one.
    pub const fn end(&self) -> PageNumber {
        self.first + self.count
    }

    /// Its length in bytes.
    pub const fn byte_len(&self) -> usize {
        self.count as usize * PAGE_SIZE
    }

    /// Its first byte's place in guest RAM.
    pub const fn byte_offset(&self) -> usize {
        self.first as usize * PAGE_SIZE
    }

    /// Its pages, one by one.
    pub fn pages(&self) -> std::ops::Range<PageNumber> {
        self.first..self.end()
    }
}
