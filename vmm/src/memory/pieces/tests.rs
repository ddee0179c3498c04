//! Bytes in, out, and in the dirty bitmap.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::config::Backing;

fn memory() -> GuestMemory {
    GuestMemory::new(16 << 20, Backing::Anonymous).expect("memory")
}

#[test]
fn packets_go_in_and_out_and_only_what_was_written_is_marked() {
    let memory = memory();
    let (left, right) = UnixDatagram::pair().expect("a pair");
    let mut pieces = Pieces::new(&memory);
    pieces.push(0x1ffe, 4).expect("in memory");
    pieces.push(0x8000, 0).expect("nothing");
    pieces.push(0x5000, 4).expect("in memory");
    assert_eq!(pieces.bytes(), 8);
    left.send(b"abcdefg").expect("sends");
    assert_eq!(pieces.read_from(right.as_fd()).expect("reads"), 7);
    let marked: Vec<u64> = (0..16).filter(|page| memory.written().is_marked(*page)).collect();
    assert_eq!(marked, [1, 2, 5]);
    let mut bytes = [0; 4];
    memory.read(0x1ffe, &mut bytes).expect("in memory");
    assert_eq!(&bytes, b"abcd");
    pieces.truncate(7);
    pieces.skip(5);
    assert_eq!(pieces.write_to(left.as_fd(), b"<>").expect("writes"), 4);
    let mut back = [0; 9];
    assert_eq!(right.recv(&mut back).expect("receives"), 4);
    assert_eq!(&back[..4], b"<>fg");
}

#[test]
fn a_packet_that_is_too_long_is_told_from_one_that_fits() {
    let memory = memory();
    let (left, right) = UnixDatagram::pair().expect("a pair");
    for (sent, read) in [(&b"12"[..], 2), (b"123", 3), (b"12345", 4)] {
        let mut pieces = Pieces::new(&memory);
        pieces.push(0x1000, 3).expect("in memory");
        left.send(sent).expect("sends");
        assert_eq!(pieces.read_from(right.as_fd()).expect("reads"), read);
    }
}

#[test]
fn what_is_not_memory_and_what_is_too_much_is_refused() {
    let memory = memory();
    let mut pieces = Pieces::new(&memory);
    for (address, bytes) in [((16 << 20) - 1, 2), (16 << 20, 1), (u64::MAX, 1), (u64::MAX, 2), (0, u32::MAX)]
    {
        assert_eq!(pieces.push(address, bytes), Err(BadPiece::Outside), "{bytes} at {address:#x}");
    }
    for piece in 0..MAX_PIECES {
        pieces.push(piece as u64 * 10, 10).expect("room");
    }
    assert_eq!(pieces.push(0, 1), Err(BadPiece::TooMany));
    assert_eq!(pieces.copy_in(5, &[7; 2000]), MAX_PIECES * 10 - 5);
    let mut back = [0; 2000];
    assert_eq!(pieces.copy_out(0, &mut back), MAX_PIECES * 10);
    assert_eq!((back[4], back[5], back[MAX_PIECES * 10 - 1]), (0, 7, 7));
    assert_eq!(pieces.fill_with_random(), MAX_PIECES * 10);
    pieces.skip(5000);
    assert_eq!((pieces.bytes(), pieces.copy_in(0, b"x")), (0, 0));
}
