//! Frames: runs of pages on bulk and urgent links.
//!
//! ```text
//! ┌────── header, 24 bytes ──────┐┌─ records, 16 bytes each ─┐┌── payload ──┐┌ 8 bytes ┐
//! │ magic kind runs pages crc    ││ first  count  encoding   ││ 4096 · pages││ digest  │
//! │ stage 0                      ││                          ││             ││         │
//! └──────────────────────────────┘└──────────────────────────┘└─────────────┘└─────────┘
//! ```
//!
//! All numbers are little-endian. `crc` (CRC-32) covers header and records. `digest` is the sum of
//! the payload's page hashes ([`crate::pages::Digest`]) where the pages stood still when they were
//! sent, which `kind` tells. It comes last, so that each piece of the payload is hashed just before it is
//! sent and just after it is received, while it lies in the processor's cache. Pages sent while the guest runs
//! cannot carry one, since they may change between hashing and sending; those that did change are dirty and
//! come again.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::pages::{Encoding, PageRun};

/// The most pages whose bytes one frame carries: 2 MiB, a huge page.
pub const MAX_FRAME_PAGES: u64 = 512;
/// The most runs one frame lists.
pub const MAX_FRAME_RUNS: usize = 512;
/// How long a frame of a guest that is still at the source may take from its first byte to its last, however little comes
/// at a time.
pub const FRAME_TIME: std::time::Duration = std::time::Duration::from_secs(30);
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = size_of::<FrameHeader>();
/// Bytes of the digest behind a payload.
pub const DIGEST_BYTES: usize = 8;
/// Bytes of a run's record.
pub const RECORD_BYTES: usize = size_of::<RunRecord>();

const MAGIC: u32 = u32::from_le_bytes(*b"FPG1");

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// Pages of a guest that runs: no digest.
    LivePages = 1,
    /// Pages of a guest that stands still, with a digest of the payload.
    FrozenPages = 2,
    /// Nothing more comes in this stage on this link.
    StageEnd = 3,
    /// Pages that a vCPU waits for; destination to source, no payload.
    Request = 4,
    /// Say the same back once all before it is in place: how a round ends.
    Mark = 5,
}

impl FrameKind {
    fn from_wire(number: u16) -> Option<FrameKind> {
        use FrameKind::{FrozenPages, LivePages, Mark, Request, StageEnd};
        [LivePages, FrozenPages, StageEnd, Request, Mark].into_iter().find(|&kind| kind as u16 == number)
    }
}

/// A frame's first 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameHeader {
    magic: le::U32,
    kind: le::U16,
    run_count: le::U16,
    data_pages: le::U32,
    crc: le::U32,
    stage: le::U32,
    reserved: le::U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RunRecord {
    first: le::U64,
    count: le::U32,
    encoding: le::U32,
}

const _: () = assert!(HEADER_BYTES == 24 && RECORD_BYTES == 16);

/// A run and how its pages travel.
pub type Segment = (Encoding, PageRun);

/// A frame whose every number has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// Which stage ends, for [`FrameKind::StageEnd`].
    pub stage: u32,
    /// How many pages' bytes follow.
    pub data_pages: u64,
    /// The runs; each lies within the guest, and those of pages ascend.
    pub segments: Vec<Segment>,
}

/// Why bytes are no frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// Not the magic number.
    #[error(
        "a frame begins with {found:#010x} instead of {MAGIC:#010x}: the peer is no Ferry, or bytes were lost"
    )]
    Magic {
        /// What stood there.
        found: u32,
    },
    /// A kind of frame unknown to this version.
    #[error("frame kind {0} is unknown")]
    Kind(u16),
    /// An encoding unknown to this version.
    #[error("page encoding {0} is unknown")]
    Encoding(u32),
    /// Over a limit.
    #[error(
        "a frame claims {runs} runs and {pages} pages; at most {MAX_FRAME_RUNS} and {MAX_FRAME_PAGES} are allowed"
    )]
    TooLarge {
        /// Claimed runs.
        runs: usize,
        /// Claimed pages of payload.
        pages: u64,
    },
    /// Header or records were damaged.
    #[error("a frame's header is damaged: checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// The checksum computed from what came.
        found: u32,
        /// The checksum it carried.
        expected: u32,
    },
    /// A run outside the guest.
    #[error("a frame names pages {first}+{count} of a guest that has {page_count}")]
    OutsideGuest {
        /// The run's first page.
        first: u64,
        /// Its length.
        count: u64,
        /// How many pages the guest has.
        page_count: u64,
    },
    /// Runs that overlap, or do not ascend.
    #[error("a frame names pages from {first} on after those up to {from}: runs of pages must ascend")]
    OutOfOrder {
        /// A run's first page.
        first: u64,
        /// Where it may begin.
        from: u64,
    },
    /// The runs and the payload disagree.
    #[error("a frame's runs carry {runs} pages, its header says {header}")]
    PageCount {
        /// Pages of the runs.
        runs: u64,
        /// Pages of the header.
        header: u64,
    },
}

impl FrameHeader {
    /// Reads the fixed part and checks what can be checked without the records.
    ///
    /// # Errors
    /// [`FrameError`], of the kinds that concern the header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, FrameError> {
        let header: FrameHeader = zerocopy::transmute!(*bytes);
        if header.magic.get() != MAGIC {
            return Err(FrameError::Magic { found: header.magic.get() });
        }
        let (runs, pages) = (usize::from(header.run_count.get()), u64::from(header.data_pages.get()));
        if runs > MAX_FRAME_RUNS || pages > MAX_FRAME_PAGES {
            return Err(FrameError::TooLarge { runs, pages });
        }
        Ok(header)
    }

    /// How many bytes of records follow the header.
    pub fn record_bytes(&self) -> usize {
        usize::from(self.run_count.get()) * RECORD_BYTES
    }

    /// The whole frame, once its records are here.
    ///
    /// # Errors
    /// [`FrameError`]: damage, or a run outside a guest of `page_count` pages.
    pub fn with_records(mut self, records: &[u8], page_count: u64) -> Result<Frame, FrameError> {
        let expected = self.crc.get();
        self.crc = 0.into();
        let found = checksum(self.as_bytes(), records);
        if found != expected {
            return Err(FrameError::Checksum { found, expected });
        }
        let kind = FrameKind::from_wire(self.kind.get()).ok_or(FrameError::Kind(self.kind.get()))?;
        let segments = records
            .chunks_exact(RECORD_BYTES)
            .map(|bytes| segment(bytes, page_count))
            .collect::<Result<Vec<_>, _>>()?;
        let carried = match kind {
            FrameKind::LivePages | FrameKind::FrozenPages => {
                check_order(&segments)?;
                raw_pages(&segments)
            }
            FrameKind::StageEnd | FrameKind::Request | FrameKind::Mark => 0,
        };
        let header = u64::from(self.data_pages.get());
        if carried != header {
            return Err(FrameError::PageCount { runs: carried, header });
        }
        Ok(Frame { kind, stage: self.stage.get(), data_pages: header, segments })
    }
}

impl Frame {
    /// A mark that says no more pages come on this link in this stage.
    pub fn stage_end(stage: u32) -> Frame {
        Frame { kind: FrameKind::StageEnd, stage, data_pages: 0, segments: Vec::new() }
    }

    /// Whether a digest of the payload follows it.
    pub fn has_digest(&self) -> bool {
        self.kind == FrameKind::FrozenPages && self.data_pages > 0
    }

    /// The runs whose bytes follow.
    pub fn raw_runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs(Encoding::Raw)
    }

    /// The runs that are all zeros.
    pub fn zero_runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs(Encoding::Zero)
    }

    fn runs(&self, wanted: Encoding) -> impl Iterator<Item = PageRun> + '_ {
        self.segments.iter().filter(move |(encoding, _)| *encoding == wanted).map(|&(_, run)| run)
    }
}

fn raw_pages(segments: &[Segment]) -> u64 {
    segments.iter().filter(|(encoding, _)| *encoding == Encoding::Raw).map(|(_, run)| run.count).sum()
}

/// A page comes at most once in a frame, so that its work is bounded by the guest's size.
fn check_order(segments: &[Segment]) -> Result<(), FrameError> {
    let mut from = 0;
    for (_, run) in segments {
        if run.first < from {
            return Err(FrameError::OutOfOrder { first: run.first, from });
        }
        from = run.end();
    }
    Ok(())
}

fn segment(bytes: &[u8], page_count: u64) -> Result<Segment, FrameError> {
    let record = RunRecord::read_from_bytes(bytes).expect("chunks of a record's size");
    let run = PageRun::new(record.first.get(), u64::from(record.count.get()));
    if run.checked_end().is_none_or(|end| end > page_count) {
        return Err(FrameError::OutsideGuest { first: run.first, count: run.count, page_count });
    }
    let encoding =
        Encoding::from_wire(record.encoding.get()).ok_or(FrameError::Encoding(record.encoding.get()))?;
    Ok((encoding, run))
}

fn checksum(header: &[u8], records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(records);
    hasher.finalize()
}

/// Builds headers and records in one buffer that is used again for each frame.
#[derive(Debug, Default)]
pub struct FrameWriter {
    bytes: Vec<u8>,
}

impl FrameWriter {
    /// The header and records of a frame, ready to be sent in front of its payload.
    pub fn encode(&mut self, kind: FrameKind, stage: u32, segments: &[Segment]) -> &[u8] {
        let data_pages = match kind {
            FrameKind::LivePages | FrameKind::FrozenPages => raw_pages(segments),
            FrameKind::StageEnd | FrameKind::Request | FrameKind::Mark => 0,
        };
        let mut header = FrameHeader {
            magic: MAGIC.into(),
            kind: (kind as u16).into(),
            run_count: (segments.len() as u16).into(),
            data_pages: (data_pages as u32).into(),
            crc: 0.into(),
            stage: stage.into(),
            reserved: 0.into(),
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(header.as_bytes());
        for (encoding, run) in segments {
            let record = RunRecord {
                first: run.first.into(),
                count: (run.count as u32).into(),
                encoding: (*encoding as u32).into(),
            };
            self.bytes.extend_from_slice(record.as_bytes());
        }
        header.crc = crc32fast::hash(&self.bytes).into();
        self.bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
