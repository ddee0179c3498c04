//! Frames of pages as a stream sends them, requests and marks, and frames of the guest's network.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
};

use engine::{
    pages::{
        Encoding, GuestPages, Landing, PAGE_SIZE, PageRun, PageSet, PageSink, PageStream, RunBytes, StageEnd,
    },
    protocol::{FrameKind, FrameWriter, NETWORK_HEADER_BYTES, NetworkHeader},
    transport::{FdWire, Interrupt, Wire},
};
use zerocopy::IntoBytes;

use crate::{Samples, golden};

const PAGES: u64 = 5;
const STAGE: u32 = 1;

#[repr(C, align(4096))]
struct Memory([[u8; PAGE_SIZE]; PAGES as usize]);

/// A guest's memory, which nobody else touches.
struct Guest(*mut Memory);

// SAFETY: one thread uses it at a time.
unsafe impl Send for Guest {}
// SAFETY: as above.
unsafe impl Sync for Guest {}

impl Guest {
    fn holding(fills: [u8; PAGES as usize]) -> Guest {
        Guest(Box::into_raw(Box::new(Memory(fills.map(|fill| [fill; PAGE_SIZE])))))
    }

    fn fills(&self) -> [u8; PAGES as usize] {
        // SAFETY: nobody writes here any more.
        let memory = unsafe { &*self.0 };
        memory.0.map(|page| {
            assert!(page.iter().all(|byte| *byte == page[0]));
            page[0]
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: made by `into_raw`, and dropped once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl GuestPages for Guest {
    fn page_count(&self) -> u64 {
        PAGES
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        assert!(run.end() <= PAGES);
        // SAFETY: within the memory, which is page-aligned and lives as long as this does.
        unsafe { RunBytes::new(self.0.cast::<u8>().add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(PAGES)
    }
}

fn link() -> (Box<dyn Wire>, UnixStream) {
    let (mine, peer) = UnixStream::pair().expect("a pair of sockets");
    (Box::new(FdWire::new(mine.into(), &Interrupt::default()).expect("a wire")), peer)
}

/// What a source sends of a guest of five pages, two of which are zero.
fn stream(kind: FrameKind) -> Vec<u8> {
    let guest = Guest::holding([0x11, 0, 0x22, 0x33, 0]);
    let (wire, mut peer) = link();
    let mut stream = PageStream::new(wire, None);
    stream
        .send(&guest, [PageRun::new(0, 4), PageRun::one(4)], None, kind, |_| ())
        .expect("room in the socket");
    stream.end_stage(STAGE).expect("room in the socket");
    drop(stream);
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).expect("all that was sent");
    bytes
}

fn name(kind: FrameKind) -> String {
    format!("frame {kind:?}")
}

pub fn frames() -> Samples {
    let of = |kind| match kind {
        FrameKind::LivePages | FrameKind::FrozenPages => stream(kind),
        FrameKind::StageEnd | FrameKind::Mark => FrameWriter::default().encode(kind, 0, &[]).to_vec(),
        FrameKind::Request => {
            let segments = [(Encoding::Raw, PageRun::one(1000)), (Encoding::Raw, PageRun::new(7, 512))];
            FrameWriter::default().encode(kind, 0, &segments).to_vec()
        }
    };
    FrameKind::ALL.map(|kind| (name(kind), of(kind))).to_vec()
}

pub fn network() -> Samples {
    let frame = [NetworkHeader::new(1, 60).as_bytes(), &[0xaa; 60]].concat();
    let end = NetworkHeader::end().as_bytes().to_vec();
    vec![("network frame".to_owned(), frame), ("network end".to_owned(), end)]
}

/// Golden pages land where they belong; cut short they are an error.
#[test]
fn golden_pages_are_read() {
    let land = |bytes: &[u8]| {
        let guest = Guest::holding([0; PAGES as usize]);
        let (mut wire, mut peer) = link();
        peer.write_all(bytes).expect("room in the socket");
        peer.shutdown(Shutdown::Write).expect("a connected socket");
        let mut landing = Landing::new(&guest, false, &Arc::default());
        let received = PageSink::new(PAGES).receive_stage(&mut *wire, &mut landing);
        received.map(|end| (end, guest.fills()))
    };
    for kind in [FrameKind::LivePages, FrameKind::FrozenPages] {
        let bytes = &golden()[&name(kind)];
        assert_eq!(land(bytes).unwrap(), (StageEnd(STAGE), [0x11, 0, 0x22, 0x33, 0]), "{kind:?}");
        for length in (0..bytes.len()).filter(|length| length % 97 == 0 || *length < 200) {
            assert!(land(&bytes[..length]).is_err(), "{kind:?}, {length} bytes");
        }
    }
}

#[test]
fn golden_requests_and_marks_are_read() {
    for kind in [FrameKind::StageEnd, FrameKind::Request, FrameKind::Mark] {
        let (mut wire, mut peer) = link();
        peer.write_all(&golden()[&name(kind)]).expect("room in the socket");
        let frame = PageSink::new(2000).receive_frame(&mut *wire).unwrap();
        assert_eq!((frame.kind, frame.payload_bytes), (kind, 0));
        if kind == FrameKind::Request {
            let runs: Vec<_> = frame.segments.iter().map(|(_, run)| *run).collect();
            assert_eq!(runs, [PageRun::one(1000), PageRun::new(7, 512)]);
        }
    }
}

#[test]
fn golden_network_frames_are_read() {
    let decode = |name: &str| {
        let bytes = &golden()[name];
        NetworkHeader::decode(*bytes.first_chunk::<NETWORK_HEADER_BYTES>().expect("a header"))
    };
    assert_eq!(decode("network frame"), Ok(Some((1, 60))));
    assert_eq!(decode("network end"), Ok(None));
}
