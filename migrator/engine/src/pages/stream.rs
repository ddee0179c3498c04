//! The source's end of a bulk or urgent link: runs of pages in, frames out, bytes gathered straight
//! from guest memory.

use std::{io, thread, time::Instant};

use super::{
    Digest, GuestPages, PageRun, PageSet, Segments,
    encoding::{Encoding, send_payload},
    piece::{Pieces, add_runs, places},
};
use crate::{
    protocol::{
        DIGEST_BYTES, FRAME_TIME, Frame, FrameHeader, FrameKind, FrameWriter, HEADER_BYTES, MAX_FRAME_PAGES,
        MAX_FRAME_RUNS, RECORD_BYTES, Segment,
    },
    transport::{Interrupt, Limit, Throttle, Wire},
};

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Pages, zero or not.
    pub pages: u64,
    /// Those of them that were zero and cost no bytes.
    pub zero_pages: u64,
    /// Bytes on the wire, headers included.
    pub bytes: u64,
}

impl Sent {
    /// Adds another's.
    pub fn add(&mut self, other: Sent) {
        self.pages += other.pages;
        self.zero_pages += other.zero_pages;
        self.bytes += other.bytes;
    }

    /// What was sent since `before`.
    pub fn since(self, before: Sent) -> Sent {
        Sent {
            pages: self.pages - before.pages,
            zero_pages: self.zero_pages - before.zero_pages,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// A link that pages are sent on.
pub struct PageStream {
    wire: Box<dyn Wire>,
    limit: Option<Limit>,
    frame_pages: u64,
    writer: FrameWriter,
    segments: Vec<Segment>,
    sent: Sent,
}

impl PageStream {
    /// Over a wire on which greetings have been exchanged. A limited stream waits until it may
    /// send, unless interrupted.
    pub fn new(wire: Box<dyn Wire>, limit: Option<Limit>) -> PageStream {
        PageStream {
            wire,
            frame_pages: limit.as_ref().map_or(MAX_FRAME_PAGES, |limit| limit.throttle.frame_pages()),
            limit,
            writer: FrameWriter::default(),
            segments: Vec::with_capacity(MAX_FRAME_RUNS),
            sent: Sent::default(),
        }
    }

    /// Sends runs of pages. `kind` says whether they stand still; `absent` which of them need not be
    /// read to know that they are zero. After each frame `progress` is told what it held.
    ///
    /// # Errors
    /// Whatever the link says.
    pub fn send(
        &mut self,
        pages: &dyn GuestPages,
        runs: impl IntoIterator<Item = PageRun>,
        absent: Option<&PageSet>,
        kind: FrameKind,
        mut progress: impl FnMut(Sent),
    ) -> io::Result<Sent> {
        let before = self.sent;
        let mut data_pages = 0;
        for run in runs {
            for segment in Segments::new(pages, absent, run, self.frame_pages) {
                let (encoding, mut run) = segment;
                // A raw segment fills up the frame that is open, and what is left of it the next.
                while encoding == Encoding::Raw && data_pages + run.count > self.frame_pages {
                    let fits = PageRun::new(run.first, self.frame_pages - data_pages);
                    if fits.count > 0 {
                        self.segments.push((encoding, fits));
                    }
                    progress(self.flush(pages, kind)?);
                    data_pages = 0;
                    run = PageRun::new(fits.end(), run.count - fits.count);
                }
                if run.count == 0 {
                    continue;
                }
                self.segments.push((encoding, run));
                data_pages += if encoding == Encoding::Raw { run.count } else { 0 };
                if data_pages == self.frame_pages || self.segments.len() == MAX_FRAME_RUNS {
                    progress(self.flush(pages, kind)?);
                    data_pages = 0;
                }
            }
        }
        if !self.segments.is_empty() {
            progress(self.flush(pages, kind)?);
        }
        Ok(self.sent.since(before))
    }

    /// Waits until all that was sent is in place: what lies in buffers on the way would otherwise be
    /// waited for by a guest that stands still, and the link would seem faster than it is.
    ///
    /// # Errors
    /// Whatever the link says.
    pub fn drain(&mut self) -> io::Result<()> {
        self.wire.send(self.writer.encode(FrameKind::Mark, 0, &[]))?;
        let mut answer = [0; HEADER_BYTES];
        self.wire.receive(&mut answer[..1])?;
        self.wire.set_deadline(Some(FRAME_TIME));
        let rest = self.wire.receive(&mut answer[1..]);
        self.wire.set_deadline(None);
        rest?;
        let frame = FrameHeader::decode(&answer).and_then(|header| header.with_records(&[], 0));
        match frame {
            Ok(frame) if frame.kind == FrameKind::Mark => Ok(()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Says that nothing more comes in this stage.
    ///
    /// # Errors
    /// Whatever the link says.
    pub fn end_stage(&mut self, stage: u32) -> io::Result<()> {
        let end = Frame::stage_end(stage);
        self.wire.send(self.writer.encode(end.kind, end.stage, &[]))
    }

    /// From here on the interrupt means nothing to this stream: what is sent now must arrive.
    pub fn ignore_interrupt(&mut self) {
        self.wire.ignore_interrupt();
        if let Some(limit) = &mut self.limit {
            limit.interrupt = Interrupt::default();
        }
    }

    /// Whether pages that nobody waits for may be sent now.
    pub fn has_room(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.throttle.has_room(Instant::now()))
    }

    /// The wire beneath.
    pub fn wire(&mut self) -> &mut dyn Wire {
        &mut *self.wire
    }

    /// Everything sent so far.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Sends the frame that `segments` lists. Returns what it held.
    fn flush(&mut self, pages: &dyn GuestPages, kind: FrameKind) -> io::Result<Sent> {
        let raw = self.segments.iter().filter(|(encoding, _)| *encoding == Encoding::Raw);
        let runs: Vec<PageRun> = raw.map(|&(_, run)| run).collect();
        let raw_pages: u64 = runs.iter().map(|run| run.count).sum();
        let encoding = if raw_pages > 0 { Encoding::Raw } else { Encoding::Zero };
        let has_digest = kind == FrameKind::FrozenPages && raw_pages > 0;
        let head_bytes = HEADER_BYTES + self.segments.len() * RECORD_BYTES;
        let digest_bytes = if has_digest { DIGEST_BYTES } else { 0 };
        let bytes = (head_bytes + digest_bytes) as u64 + encoding.payload_bytes(raw_pages);
        self.wait_for_throttle(bytes)?;
        let head = self.writer.encode(kind, 0, &self.segments);
        if has_digest {
            send_hashed(&mut *self.wire, encoding, head, pages, &runs)?;
        } else {
            send_payload(&mut *self.wire, encoding, head, &places(pages, &runs), &[])?;
        }
        let in_frame: u64 = self.segments.iter().map(|(_, run)| run.count).sum();
        let sent = Sent { pages: in_frame, zero_pages: in_frame - raw_pages, bytes };
        self.sent.add(sent);
        self.segments.clear();
        Ok(sent)
    }

    fn wait_for_throttle(&mut self, bytes: u64) -> io::Result<()> {
        let Some(Limit { throttle, lane, interrupt }) = &self.limit else { return Ok(()) };
        while let Err(wait) = throttle.admit(*lane, bytes, Instant::now()) {
            if interrupt.is_raised() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            thread::sleep(wait.min(Throttle::NAP));
        }
        Ok(())
    }
}

/// Sends a frame of pages that stand still, piece by piece, each hashed just before; their digest comes last.
fn send_hashed(
    wire: &mut dyn Wire,
    encoding: Encoding,
    head: &[u8],
    pages: &dyn GuestPages,
    runs: &[PageRun],
) -> io::Result<()> {
    let mut pieces = Pieces::new(runs.iter().copied());
    let (mut piece, mut next) = (Vec::new(), Vec::new());
    let (mut head, mut digest) = (head, Digest::default());
    let mut more = pieces.next_into(&mut piece);
    while more {
        more = pieces.next_into(&mut next);
        // SAFETY: frozen frames are sent only of guests that stand still at the source.
        unsafe { add_runs(&mut digest, pages, &piece) };
        let sum = digest.0.to_le_bytes();
        send_payload(wire, encoding, head, &places(pages, &piece), if more { &[] } else { &sum })?;
        std::mem::swap(&mut piece, &mut next);
        head = &[];
    }
    Ok(())
}
