//! The destination's end of a bulk or urgent link: frames in, bytes scattered straight into place.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;

use super::{
    Digest, GuestPages, PageNumber, PageSet,
    encoding::receive_payload,
    piece::{Pieces, add_runs, places},
};
use crate::{
    protocol::{
        DIGEST_BYTES, FRAME_TIME, Frame, FrameError, FrameHeader, FrameKind, FrameWriter, HEADER_BYTES,
        MAX_FRAME_RUNS, RECORD_BYTES,
    },
    transport::{Pace, Wire},
    vm::VmError,
};

/// Why pages could not be received.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The link failed or was closed.
    #[error("receive pages")]
    Link(#[from] io::Error),
    /// What came is no frame.
    #[error("receive pages")]
    Frame(#[from] FrameError),
    /// Pages were damaged on the way.
    #[error("pages from {first} on were damaged on the way: digest {found:016x}, expected {expected:016x}")]
    Damaged {
        /// The first page of the frame.
        first: PageNumber,
        /// The digest of what came.
        found: u64,
        /// The digest they were sent with.
        expected: u64,
    },
    /// A frame that does not belong here.
    #[error("a {found:?} frame came where none may come")]
    OutOfPlace {
        /// What it was.
        found: FrameKind,
    },
    /// Pages could not be installed.
    #[error("install missing pages")]
    Install(#[source] VmError),
    /// The state came with a page that makes no sense.
    #[error("page {page}, which came along with the state, is not the guest's, or missing all the same")]
    BadPageAlong {
        /// Its number.
        page: PageNumber,
    },
    /// Somebody put something else into a missing page.
    #[error("missing pages from {first} on were already there")]
    AlreadyThere {
        /// The first page of the run.
        first: PageNumber,
    },
}

/// Reads frames off a wire.
pub struct PageSink {
    records: Vec<u8>,
    page_count: u64,
}

/// The last frame of a stage came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageEnd(pub u32);

impl PageSink {
    /// For a guest of `page_count` pages.
    pub fn new(page_count: u64) -> PageSink {
        PageSink { records: vec![0; MAX_FRAME_RUNS * RECORD_BYTES], page_count }
    }

    /// Receives a frame without its payload, which is still on the wire.
    ///
    /// # Errors
    /// [`SinkError::Link`] and [`SinkError::Frame`].
    pub fn receive_frame(&mut self, wire: &mut dyn Wire) -> Result<Frame, SinkError> {
        let mut header = [0; HEADER_BYTES];
        wire.receive(&mut header)?;
        self.receive_records(wire, &header)
    }

    fn receive_records(
        &mut self,
        wire: &mut dyn Wire,
        header: &[u8; HEADER_BYTES],
    ) -> Result<Frame, SinkError> {
        let header = FrameHeader::decode(header)?;
        let records = &mut self.records[..header.record_bytes()];
        wire.receive(records)?;
        Ok(header.with_records(records, self.page_count)?)
    }

    /// Receives a stage's pages straight into the memory of a guest that has not started.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn receive_stage(
        &mut self,
        wire: &mut dyn Wire,
        landing: &mut Landing<'_>,
    ) -> Result<StageEnd, SinkError> {
        loop {
            // How long the first byte may take, the wire's patience says: a source may have nothing to send.
            let mut header = [0; HEADER_BYTES];
            wire.receive(&mut header[..1])?;
            wire.set_deadline(Some(FRAME_TIME));
            wire.receive(&mut header[1..])?;
            let frame = self.receive_records(wire, &header)?;
            match frame.kind {
                FrameKind::LivePages => landing.receive(wire, &frame)?,
                FrameKind::FrozenPages => {
                    wire.set_pace(Pace::Hasty);
                    landing.receive(wire, &frame)?;
                }
                FrameKind::StageEnd => {
                    wire.set_deadline(None);
                    return Ok(StageEnd(frame.stage));
                }
                FrameKind::Mark => {
                    wire.send(FrameWriter::default().encode(FrameKind::Mark, 0, &[]))?;
                }
                found @ FrameKind::Request => return Err(SinkError::OutOfPlace { found }),
            }
            wire.set_deadline(None);
        }
    }
}

/// The memory of a guest that has not started, as pages land in it.
pub struct Landing<'a> {
    pages: &'a dyn GuestPages,
    /// Pages that hold something: only these need work to become zero.
    written: PageSet,
    /// The digest of what is there, if it is to be kept.
    digest: Option<Digest>,
    landed: Arc<AtomicU64>,
    /// All pages are missing already: one that came would be waited for here.
    is_closed: bool,
}

impl<'a> Landing<'a> {
    /// Into memory that is all zeros. What lands is counted in `landed`, in pages, each time it comes.
    pub fn new(pages: &'a dyn GuestPages, keep_digest: bool, landed: &Arc<AtomicU64>) -> Landing<'a> {
        let written = PageSet::empty(pages.page_count());
        let digest = keep_digest.then(Digest::default);
        Landing { pages, written, digest, landed: landed.clone(), is_closed: false }
    }

    /// As this, where no page may come.
    pub fn closed(self) -> Landing<'a> {
        Landing { is_closed: true, ..self }
    }

    /// The digest of all that has landed, if it was kept.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    fn receive(&mut self, wire: &mut dyn Wire, frame: &Frame) -> Result<(), SinkError> {
        if self.is_closed {
            return Err(SinkError::OutOfPlace { found: frame.kind });
        }
        self.forget_replaced(frame);
        match &mut self.digest {
            None if !frame.has_digest() => {
                let runs: Vec<_> = frame.payload_runs().map(|run| self.pages.bytes(run)).collect();
                receive_payload(wire, frame.encoding, &runs)?;
            }
            kept => {
                // SAFETY: the guest has not started, and this thread is the one that receives.
                let landed = unsafe { receive_hashed(wire, frame, self.pages)? };
                if let Some(digest) = kept {
                    digest.merge(landed);
                }
            }
        }
        let came = frame.segments.iter().map(|(_, run)| run.count).sum();
        self.landed.fetch_add(came, Ordering::Relaxed);
        frame.payload_runs().for_each(|run| self.written.insert_run(run));
        for run in frame.zero_runs() {
            let zeroed = run.pages().filter(|&page| self.written.contains(page));
            zeroed.for_each(|page| self.pages.bytes(super::PageRun::one(page)).fill_zero());
        }
        Ok(())
    }

    /// Takes pages that are about to be replaced out of the digest.
    fn forget_replaced(&mut self, frame: &Frame) {
        let Some(digest) = &mut self.digest else { return };
        for &(_, run) in &frame.segments {
            for page in run.pages().filter(|&page| self.written.contains(page)) {
                // SAFETY: the guest has not started, and this thread is the one that receives.
                digest.remove_any(page, unsafe { self.pages.bytes(super::PageRun::one(page)).frozen() });
            }
        }
    }
}

/// Receives a frame's pages to their places, hashing each piece just after. Compares with the digest that frozen pages
/// carry. Returns the pages' own.
///
/// # Safety
/// Nobody else reads or writes those places meanwhile.
pub(crate) unsafe fn receive_hashed(
    wire: &mut dyn Wire,
    frame: &Frame,
    pages: &dyn GuestPages,
) -> Result<Digest, SinkError> {
    let mut pieces = Pieces::new(frame.payload_runs());
    let mut piece = Vec::new();
    let mut landed = Digest::default();
    while pieces.next_into(&mut piece) {
        receive_payload(wire, frame.encoding, &places(pages, &piece))?;
        if frame.has_digest() {
            // SAFETY: the caller's promise.
            unsafe { add_runs(&mut landed, pages, &piece) };
        } else {
            // A live page may have become zero after it was looked at.
            // SAFETY: the caller's promise.
            piece.iter().for_each(|&run| landed.add_any(run.first, unsafe { pages.bytes(run).frozen() }));
        }
    }
    check_digest(wire, frame, landed)?;
    Ok(landed)
}

/// Receives the digest that a frame carries, if it does, and compares.
pub(crate) fn check_digest(wire: &mut dyn Wire, frame: &Frame, found: Digest) -> Result<(), SinkError> {
    if !frame.has_digest() {
        return Ok(());
    }
    let mut expected = [0; DIGEST_BYTES];
    wire.receive(&mut expected)?;
    let expected = u64::from_le_bytes(expected);
    if found.0 != expected {
        let first = frame.payload_runs().next().map_or(0, |run| run.first);
        return Err(SinkError::Damaged { first, found: found.0, expected });
    }
    Ok(())
}
