//! A writer: one vCPU's slice of the working set, and what it last wrote to each page of it.

use core::fmt;

use super::fill::Fill;
use super::memory::{Memory, PageRange};
use super::mismatch::{Mismatch, MismatchKind};
use super::stamp::{PAGE_SIZE, Stamp, stamp_page};
use super::verify::verify_page;
use crate::words::{STEP, mix};

/// In which order a writer visits its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pattern {
    /// One after the other, round and round.
    Sequential,
    /// Any page, each time.
    #[default]
    Random,
    /// Nine writes in ten go to a tenth of the pages.
    HotCold,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::HotCold => "hot-cold",
        })
    }
}

impl core::str::FromStr for Pattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "sequential" => Self::Sequential,
            "random" => Self::Random,
            "hot-cold" => Self::HotCold,
            _ => return Err(()),
        })
    }
}

/// What a guest's memory holds before anyone writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Seed of all of it.
    pub seed: u64,
    /// Kind of it.
    pub fill: Fill,
    /// Indices below this are filled, unless with zeros; the others are zero until written.
    pub filled_pages: u64,
}

/// Fills and writes one vCPU's pages, and knows what each must hold.
pub struct Writer<'a> {
    memory: Memory,
    table: &'a mut [u64],
    slice: PageRange,
    id: u64,
    content: Content,
    pattern: Pattern,
    sequence: u64,
    /// What the table's entries sum to: a table page that a migration loses is found by it.
    table_sum: u64,
    audit: Audit,
}

/// A sum of the table under way, kept right while writes go on.
#[derive(Default)]
struct Audit {
    entries: usize,
    sum: u64,
}

impl<'a> Writer<'a> {
    /// The writer `id` of the working-set indices `slice`; `table` has one word for each and starts as zeros.
    ///
    /// # Panics
    /// If the table's length is not the slice's.
    #[must_use]
    pub fn new(
        memory: Memory,
        table: &'a mut [u64],
        slice: PageRange,
        id: u64,
        content: Content,
        pattern: Pattern,
    ) -> Self {
        assert!(table.len() as u64 == slice.len(), "a table entry for each page");
        Self {
            memory,
            table,
            slice,
            id,
            content,
            pattern,
            sequence: 0,
            table_sum: 0,
            audit: Audit::default(),
        }
    }

    /// Pages written so far.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The memory written to.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Writes the fill to one page, of this vCPU's share; nothing where the page is to stay zero.
    pub fn fill_page(&mut self, index: u64) {
        if self.is_filled(index) {
            let (number, page) = self.memory.page_mut(index);
            let stamp = Stamp::of_fill(self.content.seed, number);
            stamp_page(page, &stamp, self.content.fill);
        }
    }

    /// Clears a page that is to be zero and is not, as firmware may leave it. Reads, and writes only if it must.
    pub fn scrub_page(&mut self, index: u64) {
        if !self.is_filled(index) && !super::is_zero(self.memory.page(index).1) {
            self.memory.page_mut(index).1.fill(0);
        }
    }

    /// Writes the next page, whole.
    #[inline]
    pub fn write_next(&mut self) {
        if self.slice.is_empty() {
            return;
        }
        self.sequence += 1;
        let entry = self.next_entry();
        let (number, page) = self.memory.page_mut(self.slice.start + entry);
        let stamp = Stamp::new(self.content.seed, number, self.sequence, self.id);
        stamp_page(page, &stamp, self.content.fill);
        let last = &mut self.table[entry as usize];
        let growth = self.sequence.wrapping_sub(*last);
        *last = self.sequence;
        self.table_sum = self.table_sum.wrapping_add(growth);
        if (entry as usize) < self.audit.entries {
            self.audit.sum = self.audit.sum.wrapping_add(growth);
        }
    }

    /// Verifies the page with this index: one of this writer's, or one that nobody writes.
    ///
    /// # Errors
    /// What is wrong with the page, named.
    #[inline]
    pub fn verify(&self, index: u64) -> Result<(), Mismatch> {
        let expected = self.expected(index);
        let (number, page) = self.memory.page(index);
        verify_page(page, number, expected.as_ref(), self.content.seed, self.content.fill)
    }

    /// The indices this writer writes.
    #[must_use]
    pub const fn slice(&self) -> PageRange {
        self.slice
    }

    /// What the page must hold: a stamp, or nothing.
    #[inline]
    fn expected(&self, index: u64) -> Option<Stamp> {
        let number = self.memory.number(index);
        let written = if index >= self.slice.start && index < self.slice.end {
            self.table[(index - self.slice.start) as usize]
        } else {
            0
        };
        match written {
            0 if self.is_filled(index) => Some(Stamp::of_fill(self.content.seed, number)),
            0 => None,
            sequence => Some(Stamp::new(self.content.seed, number, sequence, self.id)),
        }
    }

    /// Sums some more of the table; once it is through, says whether the sum is what this writer counted.
    ///
    /// A stale table that agrees with stale pages would hide both; the counted sum is kept elsewhere, with the writer.
    pub(super) fn audit_step(&mut self) -> Option<Result<(), Mismatch>> {
        const ENTRIES: usize = 2048;
        let from = self.audit.entries;
        let to = (from + ENTRIES).min(self.table.len());
        let sum = self.table[from..to].iter().fold(self.audit.sum, |sum, entry| sum.wrapping_add(*entry));
        self.audit = Audit { entries: to, sum };
        if to < self.table.len() {
            return None;
        }
        self.audit = Audit::default();
        if sum == self.table_sum {
            return Some(Ok(()));
        }
        let stamp = |sequence| Stamp { page: 0, sequence, writer: self.id, hash: 0 };
        Some(Err(Mismatch {
            kind: MismatchKind::Table,
            page: self.table.as_ptr() as u64 / PAGE_SIZE as u64,
            expected: stamp(self.table_sum),
            found: stamp(sum),
            offset: 0,
        }))
    }

    fn is_filled(&self, index: u64) -> bool {
        self.content.fill != Fill::Zeros && index < self.content.filled_pages
    }

    /// Which page of the slice the write with the current sequence goes to. A function of the sequence alone.
    #[inline]
    fn next_entry(&self) -> u64 {
        let pages = self.slice.len();
        let random = mix(mix(self.sequence.wrapping_mul(STEP) ^ self.content.seed).wrapping_add(self.id));
        match self.pattern {
            Pattern::Sequential => (self.sequence - 1) % pages,
            Pattern::Random => scale(random, pages),
            Pattern::HotCold => {
                let hot = (pages / 10).max(1);
                // The low digits choose the temperature, the high ones (see `scale`) the page.
                if random.is_multiple_of(10) && pages > hot {
                    hot + scale(random, pages - hot)
                } else {
                    scale(random, hot)
                }
            }
        }
    }
}

/// A random word as a number below `limit`, by its high digits and without a division.
#[inline]
const fn scale(random: u64, limit: u64) -> u64 {
    ((random as u128 * limit as u128) >> 64) as u64
}
