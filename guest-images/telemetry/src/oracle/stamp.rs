//! Stamps, and pages written from them.

use super::fill::Fill;
use crate::words::seal;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// A page's bytes.
pub type Page = [u8; PAGE_SIZE];
/// Writer of the pages that were filled at boot, with sequence 0.
pub const FILL_WRITER: u64 = 0xffff;

/// Bytes of the stamp at the start of a page.
pub(super) const STAMP_BYTES: usize = 32;

/// Who wrote a page, and when: the first four words of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Page number: guest-physical address / 4096.
    pub page: u64,
    /// The writer's how-manieth write this was; 0 for the fill.
    pub sequence: u64,
    /// vCPU that wrote it, or [`FILL_WRITER`].
    pub writer: u64,
    /// Hash of seed and the three words above. The page's body derives from it.
    pub hash: u64,
}

impl Stamp {
    /// What a page that nobody wrote holds.
    pub const ZERO: Self = Self { page: 0, sequence: 0, writer: 0, hash: 0 };

    /// The stamp of a writer's `sequence`-th write, to `page`.
    #[must_use]
    pub const fn new(seed: u64, page: u64, sequence: u64, writer: u64) -> Self {
        Self { page, sequence, writer, hash: seal(&[seed, page, sequence, writer]) }
    }

    /// The stamp of a page filled at boot.
    #[must_use]
    pub const fn of_fill(seed: u64, page: u64) -> Self {
        Self::new(seed, page, 0, FILL_WRITER)
    }

    /// Whether the hash fits the other words: the stamp was written by a guest with this seed.
    #[must_use]
    pub const fn is_sound(&self, seed: u64) -> bool {
        self.hash == seal(&[seed, self.page, self.sequence, self.writer])
    }

    /// The first four words of a page, whatever they are.
    #[must_use]
    pub fn read(page: &Page) -> Self {
        let word = |i: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&page[i * 8..i * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        Self { page: word(0), sequence: word(1), writer: word(2), hash: word(3) }
    }

    pub(super) const fn words(&self) -> [u64; 4] {
        [self.page, self.sequence, self.writer, self.hash]
    }
}

/// Writes the whole page: the stamp, then the body that follows from it.
pub fn stamp_page(page: &mut Page, stamp: &Stamp, fill: Fill) {
    let (head, body) = page.split_at_mut(STAMP_BYTES);
    for (bytes, word) in head.chunks_exact_mut(8).zip(stamp.words()) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let (body, _) = body.as_chunks_mut::<8>();
    // The match is outside the loop, so that each generator is a tight loop of its own.
    match fill {
        Fill::Text => fill_body(body, |i| Fill::text_word(stamp.hash, i)),
        Fill::Random | Fill::Zeros => fill_body(body, |i| Fill::random_word(stamp.hash, i)),
    }
}

#[inline(always)]
fn fill_body(body: &mut [[u8; 8]], word: impl Fn(u64) -> u64) {
    for (i, bytes) in body.iter_mut().enumerate() {
        *bytes = word(i as u64).to_le_bytes();
    }
}
