//! What a page is turned into before it is sent.
//!
//! Today a page goes as it is, or as the word *zero*. A compressed or delta encoding is one more
//! variant here, one more arm in [`super::sink`], and nothing else.

use super::{GuestPages, PageRun, PageSet};

/// How the pages of a run travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Encoding {
    /// All bytes of each page follow.
    Raw = 0,
    /// Each page holds only zeros; nothing follows.
    Zero = 1,
}

impl Encoding {
    /// The encoding that a number on the wire names.
    pub fn from_wire(number: u32) -> Option<Encoding> {
        match number {
            0 => Some(Encoding::Raw),
            1 => Some(Encoding::Zero),
            _ => None,
        }
    }
}

/// Cuts a run into segments of one encoding each, in order.
pub struct Segments<'a> {
    pages: &'a dyn GuestPages,
    absent: Option<&'a PageSet>,
    rest: PageRun,
    max_raw: u64,
}

impl<'a> Segments<'a> {
    /// The segments of `run`; those that carry bytes are at most `max_raw` pages long. Pages in
    /// `absent` are zero and are not even read.
    pub fn new(
        pages: &'a dyn GuestPages,
        absent: Option<&'a PageSet>,
        run: PageRun,
        max_raw: u64,
    ) -> Segments<'a> {
        Segments { pages, absent, rest: run, max_raw }
    }

    fn encoding_of(&self, page: u64) -> Encoding {
        let is_absent = self.absent.is_some_and(|absent| absent.contains(page));
        if is_absent || self.pages.bytes(PageRun::one(page)).is_zero_page(0) {
            Encoding::Zero
        } else {
            Encoding::Raw
        }
    }
}

impl Iterator for Segments<'_> {
    type Item = (Encoding, PageRun);

    fn next(&mut self) -> Option<(Encoding, PageRun)> {
        if self.rest.count == 0 {
            return None;
        }
        let first = self.rest.first;
        let encoding = self.encoding_of(first);
        let limit = match encoding {
            Encoding::Raw => self.rest.count.min(self.max_raw),
            Encoding::Zero => self.rest.count.min(u64::from(u32::MAX)),
        };
        // The page that ends the segment is looked at again by the next call: once a segment.
        let count = (1..limit).find(|&i| self.encoding_of(first + i) != encoding).unwrap_or(limit);
        self.rest = PageRun::new(first + count, self.rest.count - count);
        Some((encoding, PageRun::new(first, count)))
    }
}
