//! What is no frame is refused.

use super::*;
use proptest::prelude::*;

fn decode(bytes: &[u8], page_count: u64) -> Result<Frame, FrameError> {
    let header = FrameHeader::decode(bytes[..HEADER_BYTES].try_into().unwrap())?;
    header.with_records(&bytes[HEADER_BYTES..], page_count)
}

fn a_frame() -> Vec<u8> {
    let segments = [(Encoding::Raw, PageRun::new(3, 4)), (Encoding::Zero, PageRun::new(90, 10))];
    FrameWriter::default().encode(FrameKind::FrozenPages, 0, &segments).to_vec()
}

#[test]
fn a_frame_survives_the_wire() {
    let frame = decode(&a_frame(), 100).unwrap();
    assert_eq!((frame.kind, frame.data_pages), (FrameKind::FrozenPages, 4));
    assert_eq!(frame.payload_runs().collect::<Vec<_>>(), [PageRun::new(3, 4)]);
    assert_eq!(frame.zero_runs().collect::<Vec<_>>(), [PageRun::new(90, 10)]);
}

#[test]
fn a_run_outside_the_guest_is_refused() {
    assert_eq!(
        decode(&a_frame(), 99),
        Err(FrameError::OutsideGuest { first: 90, count: 10, page_count: 99 })
    );
}

/// One frame could make the destination go through all of a guest's pages 512 times.
#[test]
fn runs_that_overlap_or_go_back_are_refused() {
    let encode = |kind, second| {
        let segments = [(Encoding::Zero, PageRun::new(0, 50)), (Encoding::Zero, second)];
        decode(FrameWriter::default().encode(kind, 0, &segments), 100)
    };
    for second in [PageRun::new(0, 50), PageRun::new(49, 2), PageRun::new(7, 0)] {
        let refused = Err(FrameError::OutOfOrder { first: second.first, from: 50 });
        assert_eq!(encode(FrameKind::LivePages, second), refused);
        assert_eq!(encode(FrameKind::FrozenPages, second), refused);
        // Pages are requested as the guest touches them.
        assert!(encode(FrameKind::Request, second).is_ok());
    }
    assert!(encode(FrameKind::LivePages, PageRun::new(50, 50)).is_ok());
}

#[test]
fn any_flipped_bit_is_found() {
    let good = a_frame();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A flip in the run count asks for other records; what it would read then is not here.
        let header = FrameHeader::decode(bad[..HEADER_BYTES].try_into().unwrap());
        let same_length = header.as_ref().is_ok_and(|h| h.record_bytes() == bad.len() - HEADER_BYTES);
        assert!(!same_length || decode(&bad, 100).is_err(), "bit {bit}");
    }
}

/// A header whose checksum is right, whatever it says.
fn with_header(change: impl Fn(&mut [u8])) -> Result<Frame, FrameError> {
    let mut bytes = a_frame();
    change(&mut bytes);
    bytes[12..16].fill(0);
    let crc = crc32fast::hash(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    decode(&bytes, 100)
}

#[test]
fn a_payload_longer_than_any_frame_has_is_refused_before_its_records_are_read() {
    let mut bytes = a_frame();
    bytes[20..24].copy_from_slice(&(MAX_PAYLOAD_BYTES as u32 + 1).to_le_bytes());
    let error = FrameHeader::decode(bytes[..HEADER_BYTES].try_into().unwrap()).unwrap_err();
    assert_eq!(error, FrameError::TooLarge { runs: 2, pages: 4, bytes: MAX_PAYLOAD_BYTES + 1 });
}

#[test]
fn a_payload_has_the_length_and_the_encoding_of_its_runs() {
    assert_eq!(with_header(|_| ()).unwrap().payload_bytes, 4 * PAGE_SIZE as u64);
    for bytes in [0, 4095, 4 * 4096 - 1, 4 * 4096 + 8] {
        let found = with_header(|header| header[20..24].copy_from_slice(&(bytes as u32).to_le_bytes()));
        assert_eq!(found, Err(FrameError::PayloadLength { encoding: Encoding::Raw, pages: 4, bytes }));
    }
    let zero = with_header(|header| header[5] = Encoding::Zero as u8);
    assert_eq!(zero, Err(FrameError::MixedEncodings { header: Encoding::Zero, run: Encoding::Raw }));
    assert_eq!(with_header(|header| header[5] = 2), Err(FrameError::Encoding(2)));
    assert_eq!(with_header(|header| header[4] = 6), Err(FrameError::Kind(6)));
    let request = with_header(|header| header[4] = FrameKind::Request as u8);
    assert_eq!(request, Err(FrameError::PageCount { runs: 0, header: 4 }));
}

#[test]
fn frames_without_pages_have_no_payload() {
    let segments = [(Encoding::Raw, PageRun::new(3, 4))];
    for kind in FrameKind::ALL {
        let frame = decode(FrameWriter::default().encode(kind, 1, &segments), 100).unwrap();
        let expected =
            if kind.carries_pages() { (Encoding::Raw, 4, 4 << 12) } else { (Encoding::Zero, 0, 0) };
        assert_eq!((frame.encoding, frame.data_pages, frame.payload_bytes), expected, "{kind:?}");
    }
}

proptest! {
    #[test]
    fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES..400), with_magic: bool) {
        if with_magic {
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        }
        if let Ok(header) = FrameHeader::decode(bytes[..HEADER_BYTES].try_into().unwrap()) {
            let records = bytes.get(HEADER_BYTES..HEADER_BYTES + header.record_bytes()).unwrap_or(&[]);
            let _ignored = header.with_records(records, 1000);
        }
    }
}
