//! What a page is turned into before it is sent.
//!
//! Today a page goes as it is, or as the word *zero*. A compressed or delta encoding is one more variant here, with the
//! length of its payload in [`Encoding::payload_bytes`], one more arm in [`send_payload`] and one in [`receive_payload`]; the
//! greeting tells a peer of it, the header of each frame names it.

use std::io;

use super::{GuestPages, PAGE_SIZE, PageRun, PageSet, RunBytes};
use crate::transport::Wire;

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
    /// All of them.
    pub const ALL: [Encoding; 2] = [Encoding::Raw, Encoding::Zero];

    /// The encoding that a number on the wire names.
    pub fn from_wire(number: u32) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|&encoding| encoding as u32 == number)
    }

    /// How many bytes of payload so many pages are.
    pub fn payload_bytes(self, pages: u64) -> u64 {
        match self {
            Encoding::Raw => pages.saturating_mul(PAGE_SIZE as u64),
            Encoding::Zero => 0,
        }
    }
}

/// Sends the head of a frame, a part of its payload from where its pages are, and what follows that.
///
/// # Errors
/// Whatever the link says.
pub(crate) fn send_payload(
    wire: &mut dyn Wire,
    encoding: Encoding,
    head: &[u8],
    places: &[RunBytes<'_>],
    tail: &[u8],
) -> io::Result<()> {
    match encoding {
        Encoding::Raw => wire.send_parts(head, places, tail),
        Encoding::Zero => wire.send_parts(head, &[], tail),
    }
}

/// Receives a part of a frame's payload to where its pages belong.
///
/// # Errors
/// Whatever the link says.
pub(crate) fn receive_payload(
    wire: &mut dyn Wire,
    encoding: Encoding,
    places: &[RunBytes<'_>],
) -> io::Result<()> {
    match encoding {
        Encoding::Raw => wire.receive_runs(places),
        Encoding::Zero => Ok(()),
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
