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
