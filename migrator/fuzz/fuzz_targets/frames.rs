//! A bulk link of a hostile source: whatever comes, pages land within the guest's memory or an error says why not.
#![no_main]

use std::{
    io::Write,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, OnceLock},
};

use libfuzzer_sys::fuzz_target;
use migrator::{
    pages::{GuestPages, Landing, PageSink},
    protocol::{HEADER_BYTES, RECORD_BYTES},
    sim::{SimVm, SimWorkload},
    transport::{FdWire, Interrupt},
    vm::SourceVm,
};

const PAGES: u64 = 16;
/// What a socket takes before it blocks: nobody reads while it is filled.
const MOST_BYTES: usize = 100_000;

static MEMORY: OnceLock<Arc<dyn GuestPages>> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let Some((&mode, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes[..bytes.len().min(MOST_BYTES)].to_vec();
    if mode & 1 == 1 {
        make_sound(&mut bytes);
    }
    let pages = MEMORY.get_or_init(memory);
    let (mut peer, mine) = UnixStream::pair().expect("a pair of sockets");
    peer.write_all(&bytes).expect("fits into the socket's buffer");
    peer.shutdown(Shutdown::Write).expect("a connected socket");
    let mut wire = FdWire::new(mine.into(), &Interrupt::default()).expect("a wire");
    let mut landing = Landing::new(&**pages, mode & 2 == 2);
    // An error is as good an answer as any.
    let _ended = PageSink::new(PAGES).receive_stage(&mut wire, &mut landing);
});

/// A small guest's memory; the guest stands still.
fn memory() -> Arc<dyn GuestPages> {
    let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 0, network: false };
    let mut vm = SimVm::boot("fuzz", PAGES, workload).expect("memory for 16 pages");
    vm.pause().expect("a simulated guest always stops");
    vm.pages()
}

/// Gives the first frame a magic number and a checksum that are right (`protocol/frame.rs`).
fn make_sound(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    bytes[..4].copy_from_slice(b"FPG1");
    let runs = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let end = (HEADER_BYTES + runs * RECORD_BYTES).min(bytes.len());
    bytes[12..16].fill(0);
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}
