//! Verification of one page, and the name of what is wrong with it.

use core::fmt;

use super::fill::Fill;
use super::stamp::{FILL_WRITER, Page, STAMP_BYTES, Stamp};

/// How a page differs from what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum MismatchKind {
    /// All zero, though it was written: its content never arrived.
    Lost = 1,
    /// An older write of the same page: a later one was lost.
    Stale = 2,
    /// A later write than the writer remembers: the writer's own table is stale.
    Newer = 3,
    /// A sound stamp of another page, or of a writer that does not own this one.
    Misplaced = 4,
    /// The right stamp, but a body that does not follow from it.
    Torn = 5,
    /// No stamp at all.
    Corrupt = 6,
    /// Something, where nobody ever wrote.
    NotZero = 7,
    /// The writer's table of sequences does not add up to what the writer counted.
    Table = 8,
    /// The guest's own code or page tables changed.
    Image = 9,
}

impl MismatchKind {
    const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::Lost,
            2 => Self::Stale,
            3 => Self::Newer,
            4 => Self::Misplaced,
            5 => Self::Torn,
            6 => Self::Corrupt,
            7 => Self::NotZero,
            8 => Self::Table,
            9 => Self::Image,
            _ => return None,
        })
    }
}

/// A page that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// In which way.
    pub kind: MismatchKind,
    /// Which page: guest-physical address / 4096.
    pub page: u64,
    /// Its stamp as it should be; [`Stamp::ZERO`] for a page nobody wrote.
    pub expected: Stamp,
    /// The first four words as they are.
    pub found: Stamp,
    /// Offset in the page of the first byte that differs.
    pub offset: u64,
}

impl Mismatch {
    /// Words in [`Mismatch::to_words`].
    pub const WORDS: usize = 11;

    /// As words, for telemetry.
    #[must_use]
    pub const fn to_words(&self) -> [u64; Self::WORDS] {
        let (e, f) = (&self.expected, &self.found);
        [
            self.kind as u64, self.page, self.offset, e.page, e.sequence, e.writer, e.hash, f.page, f.sequence, f.writer,
            f.hash,
        ]
    }

    /// From the words in telemetry.
    #[must_use]
    pub fn from_words(words: &[u64; Self::WORDS]) -> Option<Self> {
        let stamp = |i: usize| Stamp {
            page: words[i],
            sequence: words[i + 1],
            writer: words[i + 2],
            hash: words[i + 3],
        };
        Some(Self {
            kind: MismatchKind::from_word(words[0])?,
            page: words[1],
            offset: words[2],
            expected: stamp(3),
            found: stamp(7),
        })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (page, expected, found) = (self.page, &self.expected, &self.found);
        match self.kind {
            MismatchKind::Lost => write!(f, "page {page:#x} lost: all zero, expected {}", Who(expected)),
            MismatchKind::Stale => write!(f, "page {page:#x} stale: holds {}, expected {}", Who(found), Who(expected)),
            MismatchKind::Newer => {
                write!(f, "page {page:#x} is newer than its writer's table: holds {}, expected {}", Who(found), Who(expected))
            }
            MismatchKind::Misplaced => write!(
                f,
                "page {page:#x} holds page {:#x} ({}), expected {}",
                found.page,
                Who(found),
                Who(expected)
            ),
            MismatchKind::Torn => {
                write!(f, "page {page:#x} torn from byte {}: {} begins it", self.offset, Who(expected))
            }
            MismatchKind::Corrupt => write!(
                f,
                "page {page:#x} corrupt from byte {}: no stamp (words {:#x} {:#x} {:#x} {:#x}), expected {}",
                self.offset,
                found.page,
                found.sequence,
                found.writer,
                found.hash,
                Who(expected)
            ),
            MismatchKind::NotZero => write!(
                f,
                "page {page:#x} not zero from byte {}: nobody wrote it (words {:#x} {:#x} {:#x} {:#x})",
                self.offset, found.page, found.sequence, found.writer, found.hash
            ),
            MismatchKind::Table => write!(
                f,
                "writer {}'s table from page {page:#x} is stale: sums to {:#x}, its writer counted {:#x}",
                expected.writer, found.sequence, expected.sequence
            ),
            MismatchKind::Image => write!(
                f,
                "the guest's image from page {page:#x} changed: hash {:#x}, expected {:#x}",
                found.hash, expected.hash
            ),
        }
    }
}

/// A write by its writer and sequence.
struct Who<'a>(&'a Stamp);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.writer {
            FILL_WRITER => f.write_str("the fill"),
            writer => write!(f, "writer {writer}'s write {}", self.0.sequence),
        }
    }
}

/// Verifies every byte of a page: against its stamp as expected, or as a page nobody wrote (`None`).
///
/// # Errors
/// What is wrong with the page, named. `page_number` names it where no stamp is expected.
#[inline]
pub fn verify_page(
    page: &Page,
    page_number: u64,
    expected: Option<&Stamp>,
    seed: u64,
    fill: Fill,
) -> Result<(), Mismatch> {
    let right = match expected {
        None => is_zero(page),
        Some(stamp) => holds(page, stamp, fill),
    };
    if right { Ok(()) } else { Err(diagnose(page, page_number, expected, seed, fill)) }
}

/// Whether all of a page is zero.
#[inline]
#[must_use]
pub fn is_zero(page: &Page) -> bool {
    let (words, _) = page.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word)) == 0
}

/// Whether a page is exactly what [`super::stamp_page`] writes. Branchless within the page: pages are nearly always right.
#[inline]
fn holds(page: &Page, stamp: &Stamp, fill: Fill) -> bool {
    let (head, body) = page.split_at(STAMP_BYTES);
    let (head, _) = head.as_chunks::<8>();
    let (body, _) = body.as_chunks::<8>();
    let head = head.iter().zip(stamp.words()).fold(0, |all, (found, word)| all | (u64::from_le_bytes(*found) ^ word));
    let body = match fill {
        Fill::Text => difference(body, |i| Fill::text_word(stamp.hash, i)),
        Fill::Random | Fill::Zeros => difference(body, |i| Fill::random_word(stamp.hash, i)),
    };
    head | body == 0
}

#[inline(always)]
fn difference(body: &[[u8; 8]], word: impl Fn(u64) -> u64) -> u64 {
    body.iter().enumerate().fold(0, |all, (i, found)| all | (u64::from_le_bytes(*found) ^ word(i as u64)))
}

#[cold]
fn diagnose(page: &Page, number: u64, expected: Option<&Stamp>, seed: u64, fill: Fill) -> Mismatch {
    let mut right: Page = [0; super::PAGE_SIZE];
    if let Some(stamp) = expected {
        super::stamp_page(&mut right, stamp, fill);
    }
    let offset = page.iter().zip(&right).position(|(found, right)| found != right).unwrap_or(0) as u64;
    let found = Stamp::read(page);
    let kind = match expected {
        None => MismatchKind::NotZero,
        Some(_) if is_zero(page) => MismatchKind::Lost,
        Some(stamp) if found == *stamp => MismatchKind::Torn,
        Some(_) if !found.is_sound(seed) => MismatchKind::Corrupt,
        // The fill has sequence 0, so it counts as older than any write, whoever wrote that.
        Some(stamp) if found.page == stamp.page && found.writer == FILL_WRITER => MismatchKind::Stale,
        Some(stamp) if found.page == stamp.page && (found.writer == stamp.writer || stamp.sequence == 0) => {
            if found.sequence < stamp.sequence { MismatchKind::Stale } else { MismatchKind::Newer }
        }
        Some(_) => MismatchKind::Misplaced,
    };
    Mismatch {
        kind,
        page: number,
        expected: expected.copied().unwrap_or(Stamp::ZERO),
        found,
        offset,
    }
}
