//! What pages hold: content as hard or as easy to compress as the guest was told to have.

use core::fmt;

use crate::words::{STEP, mix};

/// Kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u64)]
pub enum Fill {
    /// Not filled at all: pages stay as the machine gave them, zero and (on a good host) not even backed. Pages that
    /// writers write later hold random words.
    Zeros = 0,
    /// No compressor finds anything.
    #[default]
    Random = 1,
    /// Like text: zstd makes about a third of it.
    Text = 2,
}

/// Eight letters each, padded by blanks: the more common words of technical English.
const DICTIONARY: [&[u8; 8]; 64] = [
    b"the     ",
    b"of      ",
    b"and     ",
    b"to      ",
    b"in      ",
    b"is      ",
    b"that    ",
    b"for     ",
    b"it      ",
    b"as      ",
    b"with    ",
    b"on      ",
    b"by      ",
    b"this    ",
    b"are     ",
    b"page    ",
    b"memory  ",
    b"guest   ",
    b"host    ",
    b"source  ",
    b"dirty   ",
    b"write   ",
    b"read    ",
    b"state   ",
    b"time    ",
    b"from    ",
    b"which   ",
    b"each    ",
    b"when    ",
    b"while   ",
    b"after   ",
    b"before  ",
    b"network ",
    b"machine ",
    b"virtual ",
    b"running ",
    b"address ",
    b"process ",
    b"kernel  ",
    b"device  ",
    b"transfer",
    b"migrate ",
    b"downtime",
    b"round,  ",
    b"strategy",
    b"pages.  ",
    b"copied  ",
    b"stopped ",
    b"value = ",
    b"return  ",
    b"error:  ",
    b"must not",
    b"between ",
    b"through ",
    b"without ",
    b"another ",
    b"number  ",
    b"longest ",
    b"already ",
    b"because ",
    b"however,",
    b"request ",
    b"always  ",
    b"0x0000: ",
];

/// The dictionary as words, so that the generator's loop loads one word and no more.
const DICTIONARY_WORDS: [u64; 64] = {
    let mut words = [0; 64];
    let mut i = 0;
    while i < 64 {
        words[i] = u64::from_le_bytes(*DICTIONARY[i]);
        i += 1;
    }
    words
};

impl Fill {
    /// The kind with this discriminant.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            0 => Self::Zeros,
            1 => Self::Random,
            2 => Self::Text,
            _ => return None,
        })
    }

    /// Word `i` of a random body.
    #[inline(always)]
    pub(super) const fn random_word(hash: u64, i: u64) -> u64 {
        mix(hash.wrapping_add(i.wrapping_mul(STEP)))
    }

    /// Word `i` of a text-like body: three words of a known phrase in four, and a name or figure nobody has seen.
    #[inline(always)]
    pub(super) const fn text_word(hash: u64, i: u64) -> u64 {
        let random = Self::random_word(hash, i >> 2);
        // Blank to underscore: capitals, digits and signs, six random bits each.
        let unknown = (random & 0x3f3f_3f3f_3f3f_3f3f) + 0x2020_2020_2020_2020;
        let known = DICTIONARY_WORDS[(((random >> 56) + i) & 63) as usize];
        // Without a branch: the choice is random, and a mispredicted branch would cost more than both.
        let choose = (((random >> 62) ^ i) & 3 == 0) as u64;
        let mask = 0u64.wrapping_sub(choose);
        (unknown & mask) | (known & !mask)
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zeros => "zeros",
            Self::Random => "random",
            Self::Text => "text",
        })
    }
}

impl core::str::FromStr for Fill {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "zeros" => Self::Zeros,
            "random" => Self::Random,
            "text" => Self::Text,
            _ => return Err(()),
        })
    }
}
