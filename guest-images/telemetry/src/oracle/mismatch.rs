//! The name of what is wrong with a page.

use core::fmt;

use super::stamp::{FILL_WRITER, Stamp};

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
    /// Whether it is about a page's content, and not about the guest's own tables.
    #[must_use]
    pub const fn is_of_page(self) -> bool {
        !matches!(self, Self::Table | Self::Image)
    }

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
            self.kind as u64,
            self.page,
            self.offset,
            e.page,
            e.sequence,
            e.writer,
            e.hash,
            f.page,
            f.sequence,
            f.writer,
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
            MismatchKind::Stale => {
                write!(f, "page {page:#x} stale: holds {}, expected {}", Who(found), Who(expected))
            }
            MismatchKind::Newer => {
                write!(
                    f,
                    "page {page:#x} is newer than its writer's table: holds {}, expected {}",
                    Who(found),
                    Who(expected)
                )
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
