//! Arbitrary bytes, taken for what a hostile peer says.

use crate::{
    pages::{Digest, Encoding, PAGE_SIZE, PageRun},
    protocol::{FrameKind, FrameWriter, HEADER_BYTES, Segment},
};

/// Pages of the guests that are fuzzed with.
pub(super) const PAGES: u64 = 16;
/// The most pages that one frame of a script carries: what claims more comes without them.
const MAX_CARRIED_PAGES: u64 = 48;

/// Bytes, taken one after the other; zeros at the end.
pub(super) struct Script<'a>(pub &'a [u8]);

impl<'a> Script<'a> {
    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// Mostly numbers of pages that a small guest has, or nearly; sometimes anything.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small) % (PAGES + 2),
            200..=215 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            216..=231 => u64::MAX - u64::from(self.byte()),
            _ => 1 << (self.byte() % 64),
        }
    }

    /// Some of the bytes that are left.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}

/// A frame that was made of a script.
pub(super) struct ScriptFrame {
    pub kind: FrameKind,
    pub segments: Vec<Segment>,
    /// What the pages of each run hold, all over.
    pub fills: Vec<u8>,
    /// It carries pages of zeros as if they were something else, which no honest source does.
    pub hides_zeros: bool,
    /// The bytes may say something else.
    pub is_tampered: bool,
}

/// What a script gets wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    Header { at: usize, by: u8, checksum_is_right: bool },
    Digest,
    CutShort,
}

impl Wrong {
    /// Mostly nothing.
    fn read(script: &mut Script<'_>) -> Wrong {
        match script.byte() {
            0..=215 => Wrong::Nothing,
            216..=227 => Wrong::Digest,
            228..=233 => Wrong::CutShort,
            other => Wrong::Header {
                at: usize::from(script.byte()),
                by: script.byte(),
                checksum_is_right: other % 2 == 0,
            },
        }
    }
}

/// Adds a frame to `bytes`, sound but for what the script gets wrong.
pub(super) fn add_frame(script: &mut Script<'_>, bytes: &mut Vec<u8>) -> ScriptFrame {
    let kind = match script.byte() % 16 {
        0..=4 => FrameKind::LivePages,
        5..=11 => FrameKind::FrozenPages,
        12 | 13 => FrameKind::Request,
        14 => FrameKind::StageEnd,
        _ => FrameKind::Mark,
    };
    let wrong = Wrong::read(script);
    let (mut segments, mut fills): (Vec<Segment>, Vec<u8>) = (Vec::new(), Vec::new());
    let runs = if matches!(kind, FrameKind::StageEnd | FrameKind::Mark) { 0 } else { 1 + script.byte() % 6 };
    // Mostly in order, as they must be.
    let mut from = 0;
    for _ in 0..runs {
        let encoding = if script.byte().is_multiple_of(3) { Encoding::Zero } else { Encoding::Raw };
        let (step, count) = (script.number(), script.number() & u64::from(u32::MAX));
        let first = if step < 8 { from + step } else { step };
        from = first.saturating_add(count).min(PAGES);
        segments.push((encoding, PageRun::new(first, count)));
        fills.push(script.byte());
    }
    let begin = bytes.len();
    bytes.extend(FrameWriter::default().encode(kind, u32::from(script.byte()), &segments));
    if let Wrong::Header { at, by, checksum_is_right } = wrong {
        let head = &mut bytes[begin..];
        let at = at % head.len();
        head[at] = head[at].wrapping_add(by);
        if checksum_is_right {
            mend_checksum(head);
        }
    }
    let carries = matches!(kind, FrameKind::LivePages | FrameKind::FrozenPages);
    let raw = || segments.iter().zip(&fills).filter(|((encoding, _), _)| *encoding == Encoding::Raw);
    let pages = raw().fold(0u64, |sum, ((_, run), _)| sum.saturating_add(run.count));
    let mut hides_zeros = false;
    if carries && pages <= MAX_CARRIED_PAGES {
        let mut digest = Digest::default();
        for ((_, run), &fill) in raw() {
            hides_zeros |= fill == 0 && run.count > 0;
            for page in 0..run.count {
                let content = [fill; PAGE_SIZE];
                // A page that the guest has not is refused before anything is hashed.
                let number = run.first.saturating_add(page);
                if number < PAGES {
                    digest.add(number, &content);
                }
                bytes.extend(content);
            }
        }
        if kind == FrameKind::FrozenPages && pages > 0 {
            let digest = digest.0.wrapping_add(u64::from(wrong == Wrong::Digest));
            bytes.extend(digest.to_le_bytes());
        }
    }
    if wrong == Wrong::CutShort {
        let length = bytes.len() - begin;
        bytes.truncate(begin + length / 2);
    }
    let is_tampered = !matches!(wrong, Wrong::Nothing | Wrong::Digest) || pages > MAX_CARRIED_PAGES;
    ScriptFrame { kind, segments, fills, hides_zeros, is_tampered }
}

/// Gives a header and its records the checksum that they have (`protocol/frame.rs`).
pub(super) fn mend_checksum(head: &mut [u8]) {
    if head.len() >= HEADER_BYTES {
        head[12..16].fill(0);
        let crc = crc32fast::hash(head);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}
