//! Frames: runs of pages on bulk and urgent links.
//!
//! ```text
//! ┌────────── header, 24 bytes ──────────┐┌─ records, 16 bytes each ─┐┌─── payload ───┐┌ 8 bytes ┐
//! │ magic kind encoding runs pages crc   ││ first  count  encoding   ││ payload bytes ││ digest  │
//! │ stage payload-bytes                  ││                          ││               ││         │
//! └──────────────────────────────────────┘└──────────────────────────┘└───────────────┘└─────────┘
//! ```
//!
//! All numbers are little-endian. `crc` (CRC-32) covers header and records. A record's encoding is the header's, if its
//! pages are in the payload, or *zero*. The payload's length is in the header, since an encoding may make it anything up
//! to [`MAX_PAYLOAD_BYTES`].
//!
//! `digest` is the sum of the page hashes ([`crate::pages::Digest`]) of what the payload decodes to, where the pages did
//! not change while they were sent, which `kind` tells. It comes last, so that each piece of the payload is hashed just
//! before it is sent and just after it is received, while it lies in the processor's cache. Pages sent while the guest
//! runs cannot carry one, since they may change between hashing and sending; those that did change are dirty and come
//! again.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::pages::{Encoding, PAGE_SIZE, PageRun};

/// The most pages whose bytes one frame carries: 2 MiB, a huge page.
pub const MAX_FRAME_PAGES: u64 = 512;
/// The longest payload: an encoding that would make one longer is not used.
pub const MAX_PAYLOAD_BYTES: u64 = MAX_FRAME_PAGES * PAGE_SIZE as u64;
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
#[repr(u8)]
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
    /// All of them.
    pub const ALL: [FrameKind; 5] = [
        FrameKind::LivePages,
        FrameKind::FrozenPages,
        FrameKind::StageEnd,
        FrameKind::Request,
        FrameKind::Mark,
    ];

    fn from_wire(number: u8) -> Option<FrameKind> {
        FrameKind::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    fn carries_pages(self) -> bool {
        match self {
            FrameKind::LivePages | FrameKind::FrozenPages => true,
            FrameKind::StageEnd | FrameKind::Request | FrameKind::Mark => false,
        }
    }
}

/// A frame's first 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameHeader {
    magic: le::U32,
    kind: u8,
    encoding: u8,
    run_count: le::U16,
    data_pages: le::U32,
    crc: le::U32,
    stage: le::U32,
    payload_bytes: le::U32,
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
    /// How the pages of the payload travel; [`Encoding::Zero`] where there is none.
    pub encoding: Encoding,
    /// How many pages the payload holds.
    pub data_pages: u64,
    /// How many bytes they take on the wire, without the digest.
    pub payload_bytes: u64,
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
    Kind(u8),
    /// An encoding unknown to this version.
    #[error("page encoding {0} is unknown")]
    Encoding(u32),
    /// Over a limit.
    #[error(
        "a frame claims {runs} runs, {pages} pages and {bytes} bytes of payload; at most {MAX_FRAME_RUNS}, \
         {MAX_FRAME_PAGES} and {MAX_PAYLOAD_BYTES} are allowed"
    )]
    TooLarge {
        /// Claimed runs.
        runs: usize,
        /// Claimed pages of payload.
        pages: u64,
        /// Claimed bytes of payload.
        bytes: u64,
    },
    /// A payload of a length that its encoding does not have.
    #[error("a frame says that {pages} pages in encoding {encoding:?} are {bytes} bytes, which they are not")]
    PayloadLength {
        /// The encoding of the payload.
        encoding: Encoding,
        /// Pages in it.
        pages: u64,
        /// Bytes it claims.
        bytes: u64,
    },
    /// A run in another encoding than the payload's.
    #[error("a frame's payload is in encoding {header:?}, and that of one of its runs in {run:?}")]
    MixedEncodings {
        /// The payload's.
        header: Encoding,
        /// The run's.
        run: Encoding,
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
        let bytes = u64::from(header.payload_bytes.get());
        if runs > MAX_FRAME_RUNS || pages > MAX_FRAME_PAGES || bytes > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLarge { runs, pages, bytes });
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
        let kind = FrameKind::from_wire(self.kind).ok_or(FrameError::Kind(self.kind))?;
        let encoding = encoding(self.encoding.into())?;
        let segments = records
            .chunks_exact(RECORD_BYTES)
            .map(|bytes| segment(bytes, page_count))
            .collect::<Result<Vec<_>, _>>()?;
        if kind.carries_pages() {
            check_order(&segments)?;
        }
        let Payload { pages, .. } = Payload::of(kind, &segments);
        let (header, payload_bytes) = (u64::from(self.data_pages.get()), self.payload_bytes.get().into());
        if pages != header {
            return Err(FrameError::PageCount { runs: pages, header });
        }
        check_payload(encoding, pages, payload_bytes, &segments)?;
        Ok(Frame { kind, stage: self.stage.get(), encoding, data_pages: pages, payload_bytes, segments })
    }
}

/// What follows a frame's records, as those say.
struct Payload {
    encoding: Encoding,
    pages: u64,
}

impl Payload {
    fn of(kind: FrameKind, segments: &[Segment]) -> Payload {
        let mut payload = Payload { encoding: Encoding::Zero, pages: 0 };
        let carried = if kind.carries_pages() { segments } else { &[] };
        for &(encoding, run) in carried.iter().filter(|(encoding, _)| *encoding != Encoding::Zero) {
            payload = Payload { encoding, pages: payload.pages.saturating_add(run.count) };
        }
        payload
    }
}

impl Frame {
    /// A mark that says no more pages come on this link in this stage.
    pub fn stage_end(stage: u32) -> Frame {
        Frame::without_payload(FrameKind::StageEnd, stage, Vec::new())
    }

    /// A frame that carries no pages.
    pub(crate) fn without_payload(kind: FrameKind, stage: u32, segments: Vec<Segment>) -> Frame {
        Frame { kind, stage, encoding: Encoding::Zero, data_pages: 0, payload_bytes: 0, segments }
    }

    /// Whether a digest of the payload follows it.
    pub fn has_digest(&self) -> bool {
        self.kind == FrameKind::FrozenPages && self.data_pages > 0
    }

    /// The runs whose pages are in the payload.
    pub fn payload_runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs(|encoding| encoding != Encoding::Zero)
    }

    /// The runs that are all zeros.
    pub fn zero_runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        self.runs(|encoding| encoding == Encoding::Zero)
    }

    fn runs(&self, wanted: fn(Encoding) -> bool) -> impl Iterator<Item = PageRun> + '_ {
        self.segments.iter().filter(move |(encoding, _)| wanted(*encoding)).map(|&(_, run)| run)
    }
}

/// What would be read as a payload is as long as it says, and all in one encoding.
fn check_payload(header: Encoding, pages: u64, bytes: u64, segments: &[Segment]) -> Result<(), FrameError> {
    // Of a frame without a payload the runs' encodings say nothing.
    let mut runs = segments.iter().map(|(encoding, _)| *encoding).filter(|_| pages > 0);
    if let Some(run) = runs.find(|&run| run != Encoding::Zero && run != header) {
        return Err(FrameError::MixedEncodings { header, run });
    }
    if bytes != header.payload_bytes(pages) {
        return Err(FrameError::PayloadLength { encoding: header, pages, bytes });
    }
    Ok(())
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
    Ok((encoding(record.encoding.get())?, run))
}

fn encoding(number: u32) -> Result<Encoding, FrameError> {
    Encoding::from_wire(number).ok_or(FrameError::Encoding(number))
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
        let payload = Payload::of(kind, segments);
        let mut header = FrameHeader {
            magic: MAGIC.into(),
            kind: kind as u8,
            encoding: payload.encoding as u8,
            run_count: (segments.len() as u16).into(),
            data_pages: (payload.pages as u32).into(),
            crc: 0.into(),
            stage: stage.into(),
            payload_bytes: (payload.encoding.payload_bytes(payload.pages) as u32).into(),
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
