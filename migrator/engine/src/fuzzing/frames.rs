//! Frames of pages: whatever comes, pages land in the guest's memory where they belong, or an error says why not.

use std::{
    io::Write,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    script::{PAGES, Script, ScriptFrame, add_frame, mend_checksum},
    wire::ScriptWire,
};
use crate::{
    destination::fuzzing::receive_missing,
    pages::{Encoding, GuestPages, Landing, PAGE_SIZE, PageRun, PageSet, PageSink, digest_of},
    protocol::{FrameKind, HEADER_BYTES, RECORD_BYTES},
    sim::{SimHost, SimVm, SimWorkload},
    source::fuzzing::answer_requests,
    transport::{FdWire, Interrupt, Wire},
    vm::{DestinationHost, DestinationVm, SourceVm, VmDescription},
};

/// What a socket takes before it blocks: nobody reads while it is filled.
const MAX_SOCKET_BYTES: usize = 100_000;

/// A bulk or urgent link of a hostile peer.
pub fn frames(bytes: &[u8]) {
    run(bytes);
}

/// Returns whether what came was as it had to be; `false` too where that is not known.
fn run(bytes: &[u8]) -> bool {
    let mut script = Script(bytes);
    let mode = script.byte();
    let (bytes, frames) = if mode & 0x80 == 0 { scripted(&mut script) } else { (raw(script.0), Vec::new()) };
    match mode % 4 {
        0 | 1 => land(bytes, &frames, mode),
        2 => install(bytes, &frames, mode),
        _ => answer(bytes),
    }
}

/// Frames that are sound but for what the script gets wrong.
fn scripted(script: &mut Script<'_>) -> (Vec<u8>, Vec<ScriptFrame>) {
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    while !script.0.is_empty() {
        frames.push(add_frame(script, &mut bytes));
    }
    (bytes, frames)
}

/// The bytes themselves, with a magic number and a checksum that are right.
fn raw(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        bytes[..4].copy_from_slice(b"FPG1");
        let runs = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let end = (HEADER_BYTES + runs * RECORD_BYTES).min(bytes.len());
        mend_checksum(&mut bytes[..end]);
    }
    bytes
}

/// As a destination receives what must be there before its guest starts.
fn land(bytes: Vec<u8>, frames: &[ScriptFrame], mode: u8) -> bool {
    let vm = empty_machine(|_| true);
    let pages = DestinationVm::pages(&vm);
    let (mut wire, _peer) = link(bytes, mode);
    let mut landing = Landing::new(&*pages, mode & 0x20 != 0, &std::sync::Arc::default());
    let received = PageSink::new(PAGES).receive_stage(&mut *wire, &mut landing);
    if received.is_err() || says_something_else(frames) {
        return false;
    }
    let stage = || frames.iter().take_while(|frame| frame.kind != FrameKind::StageEnd);
    let mut expected = [0; PAGES as usize];
    for frame in stage().filter(|frame| is_pages(frame)) {
        for (page, fill) in pages_of(frame) {
            expected[page as usize] = fill;
        }
    }
    assert_holds(&*pages, &expected);
    if let Some(digest) = landing.digest().filter(|_| !stage().any(|frame| frame.hides_zeros)) {
        // SAFETY: the guest has not started.
        assert_eq!(digest, unsafe { digest_of(&*pages) }, "the digest is that of memory");
    }
    true
}

/// As a destination receives what is missing while its guest runs.
fn install(bytes: Vec<u8>, frames: &[ScriptFrame], mode: u8) -> bool {
    let mut vm = empty_machine(|vm| {
        let missing = vm.prepare_missing().expect("a simulated machine permits it");
        missing.landing_area(&[]).is_some() == (mode & 4 != 0)
    });
    let missing = vm.prepare_missing().expect("a simulated machine permits it");
    missing.watch(&PageSet::all(PAGES)).expect("memory of its own");
    let mut expected_set = PageSet::all(PAGES);
    if mode & 8 != 0 {
        expected_set.remove_run(PageRun::new(3, 5));
    }
    let (mut wire, _peer) = link(bytes, mode);
    let keep_digest = mode & 0x20 != 0;
    let received = receive_missing(&mut *wire, &*missing, expected_set.clone(), keep_digest);
    if received.result.is_err() || says_something_else(frames) {
        return false;
    }
    let push = || frames.iter().take_while(|frame| frame.kind != FrameKind::StageEnd);
    let (mut expected, mut left) = ([0; PAGES as usize], expected_set);
    for (page, fill) in push().flat_map(pages_of) {
        // What comes twice is dropped.
        if left.contains(page) {
            expected[page as usize] = fill;
            left.remove_run(PageRun::one(page));
        }
    }
    assert_eq!(received.remaining, left.len(), "every page is counted once");
    let pages = DestinationVm::pages(&vm);
    assert_holds(&*pages, &expected);
    if let Some(digest) = received.digest.filter(|_| !push().any(|frame| frame.hides_zeros)) {
        // SAFETY: no guest runs here.
        assert_eq!(digest, unsafe { digest_of(&*pages) }, "the digest is that of memory");
    }
    true
}

/// As a source answers page requests.
fn answer(bytes: Vec<u8>) -> bool {
    static MEMORY: OnceLock<Arc<dyn GuestPages>> = OnceLock::new();
    let pages = MEMORY.get_or_init(|| {
        let mut vm = booted();
        vm.pause().expect("a simulated guest always stops");
        SourceVm::pages(&vm)
    });
    let sent = answer_requests(ScriptWire::new(bytes), pages, PageSet::all(PAGES));
    assert!(sent.zero_pages <= sent.pages);
    sent.pages > 0
}

/// Whether what must be in memory afterwards is not known.
fn says_something_else(frames: &[ScriptFrame]) -> bool {
    frames.is_empty() || frames.iter().any(|frame| frame.is_tampered)
}

fn is_pages(frame: &ScriptFrame) -> bool {
    matches!(frame.kind, FrameKind::LivePages | FrameKind::FrozenPages)
}

/// The pages of a frame in the order in which they take effect, and what each holds.
fn pages_of(frame: &ScriptFrame) -> Vec<(u64, u8)> {
    let runs = || frame.segments.iter().zip(&frame.fills);
    let raw = runs().filter(|((encoding, _), _)| *encoding == Encoding::Raw);
    let zero = runs().filter(|((encoding, _), _)| *encoding == Encoding::Zero);
    let raw = raw.flat_map(|((_, run), &fill)| run.pages().map(move |page| (page, fill)));
    raw.chain(zero.flat_map(|((_, run), _)| run.pages().map(|page| (page, 0)))).collect()
}

fn assert_holds(pages: &dyn GuestPages, expected: &[u8]) {
    for (page, &fill) in (0..).zip(expected) {
        // SAFETY: nobody writes here any more.
        let found = unsafe { pages.bytes(PageRun::one(page)).frozen() };
        assert!(found == [fill; PAGE_SIZE], "page {page} holds {:?} instead of {fill}", &found[..8]);
    }
}

/// A link whose other end has said `bytes`: sometimes a real one.
fn link(bytes: Vec<u8>, mode: u8) -> (Box<dyn Wire>, Option<UnixStream>) {
    if mode & 0x40 == 0 || bytes.len() > MAX_SOCKET_BYTES {
        return (Box::new(ScriptWire::new(bytes)), None);
    }
    let (mut peer, mine) = UnixStream::pair().expect("a pair of sockets");
    peer.write_all(&bytes).expect("fits into the socket's buffer");
    peer.shutdown(Shutdown::Write).expect("a connected socket");
    let mut wire = FdWire::new(mine.into(), &Interrupt::default()).expect("a wire");
    // Answers to many marks fill the other direction, where nobody reads.
    wire.set_patience(Some(Duration::from_millis(1)));
    (Box::new(wire), Some(peer))
}

pub(super) fn booted() -> SimVm {
    let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 3, network: false };
    SimVm::boot("fuzz", PAGES, workload).expect("memory for 16 pages")
}

/// What describes such a guest.
pub(super) fn description() -> VmDescription {
    static DESCRIPTION: OnceLock<VmDescription> = OnceLock::new();
    DESCRIPTION.get_or_init(|| booted().describe()).clone()
}

/// A destination's machine that is as wanted: every other one has a landing area.
fn empty_machine(is_wanted: impl Fn(&mut SimVm) -> bool) -> SimVm {
    loop {
        let mut vm = SimHost::default().create(&description()).expect("memory for 16 pages");
        if is_wanted(&mut vm) {
            return vm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script can say all that an honest peer does, and what it brings is compared.
    #[test]
    fn honest_frames_are_taken() {
        let live = [0, 0, 1, 1, 0, 4, 9, 1, 2, 3, 8, 0];
        let frozen_and_zero = [5, 0, 1, 1, 0, 4, 7, 0, 2, 3, 8, 0];
        let end = [14, 0, 0];
        for mode in [0, 0x20, 0x40, 0x60] {
            assert!(run(&[&[mode], &live[..], &frozen_and_zero, &end].concat()), "land, {mode:#x}");
            assert!(run(&[&[mode + 2], &frozen_and_zero[..], &end].concat()), "buffer, {mode:#x}");
            assert!(run(&[&[mode + 6], &frozen_and_zero[..], &end].concat()), "area, {mode:#x}");
            assert!(!run(&[&[mode + 2], &live[..], &end].concat()), "a live page is not missing, {mode:#x}");
        }
        let request = [12, 0, 0, 1, 2, 1, 0, 0];
        assert!(run(&[&[3], &request[..]].concat()));
    }
}
