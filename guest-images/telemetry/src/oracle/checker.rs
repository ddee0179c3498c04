//! A check of one vCPU's share of memory, a page at a time, so that writers write on in between.

use super::memory::PageRange;
use super::mismatch::Mismatch;
use super::writer::Writer;

/// What one step of a check found.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// One page was right.
    Right,
    /// One page, or the writer's table, was wrong.
    Wrong(Mismatch),
    /// Something other than a page was right, so far.
    Audited,
    /// Nothing is left to check.
    Done,
}

/// A check under way: the writer's slice, then its share of all other pages, then its table.
pub struct Checker {
    left: PageRange,
    next: Next,
}

enum Next {
    Fill(PageRange),
    Table,
    Nothing,
}

impl Checker {
    /// A check of the writer's slice and of `share`, other pages that no one writes.
    #[must_use]
    pub const fn new(writer: &Writer<'_>, share: PageRange) -> Self {
        Self { left: writer.slice(), next: Next::Fill(share) }
    }

    /// Verifies the next page, or sums some of the table.
    #[inline]
    pub fn step(&mut self, writer: &mut Writer<'_>) -> CheckStep {
        while self.left.is_empty() {
            match self.next {
                Next::Fill(share) => {
                    self.left = share;
                    self.next = Next::Table;
                }
                Next::Table => {
                    let audit = writer.audit_step();
                    if audit.is_some() {
                        self.next = Next::Nothing;
                    }
                    return match audit {
                        Some(Err(mismatch)) => CheckStep::Wrong(mismatch),
                        Some(Ok(())) | None => CheckStep::Audited,
                    };
                }
                Next::Nothing => return CheckStep::Done,
            }
        }
        let index = self.left.start;
        self.left.start += 1;
        match writer.verify(index) {
            Ok(()) => CheckStep::Right,
            Err(mismatch) => CheckStep::Wrong(mismatch),
        }
    }
}
