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
    assert_eq!(frame.raw_runs().collect::<Vec<_>>(), [PageRun::new(3, 4)]);
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
