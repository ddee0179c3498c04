//! A block of pages that are filled elsewhere and then moved into the guest whole.
//!
//! Copying a missing page in costs the kernel a fresh page and the copy, page by page. A block of 2 MiB that was filled in
//! place can instead be *moved*: one page-table entry changes hands, and the guest keeps a huge page. What is left behind
//! is absent, and is backed anew when it is filled again.
//!
//! Which way is faster depends on the host's free memory, and is not settled. With the filling counted in
//! (`examples/install.rs`, two shared and busy cores, five rounds of 512 MiB), medians in GB/s: right after 14 GiB of host
//! memory were touched, moved 5.9 (0.9 to 9.7) and copied 3.0 (2.2 to 3.3); in the next run moved 1.5 (0.5 to 3.6) and
//! copied 2.5 (1.5 to 3.0). Moving takes a fresh huge page for each block, which is probably what makes it slow where
//! such pages have gone back to the host beneath. Measure on the machine at hand before choosing it.

use std::io;
use std::ops::Range;

use crate::config::{Backing, HUGE_PAGE_BYTES};
use crate::memory::{MapError, Mapping};

/// A block of 2 MiB to fill. Belongs to one thread at a time.
#[derive(Debug)]
pub struct StagingBlock {
    mapping: Mapping,
}

impl StagingBlock {
    /// Bytes of a block, and the alignment of what it is moved to.
    pub const BYTES: u64 = HUGE_PAGE_BYTES;

    /// An empty block.
    pub fn new() -> Result<StagingBlock, MapError> {
        Mapping::new(Self::BYTES, Backing::Anonymous).map(|mapping| StagingBlock { mapping })
    }

    /// Its bytes: zeros at first, unspecified after an install.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is private, readable and writable, of this length, and as `self` is borrowed mutably nobody
        // else has its bytes.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.as_ptr(), self.mapping.len()) }
    }

    /// Its bytes, to be read.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`, for reading.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr(), self.mapping.len()) }
    }

    /// Host addresses of the block.
    pub(super) fn range(&self) -> Range<u64> {
        let start = self.mapping.as_ptr() as u64;
        start..start + self.mapping.len() as u64
    }

    /// Gives up what is left in it.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.mapping.discard(0..self.mapping.len() as u64)
    }
}
