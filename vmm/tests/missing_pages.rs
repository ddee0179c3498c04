//! A guest runs while its memory is still missing: what it touches is fetched, the rest is pushed.

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{COUNT, COUNTER_AT, PATIENCE, booted, machine, machine_of, read_u32, until, until_counting};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::{
    Backing, Event, LandingArea, MissingPages, MissingPagesError, PAGE_BYTES, PageFault, Vm, VmConfig,
};

/// Writes into each page from 2 to 12 MiB its address, says so with a 1 at 0x200000, waits for a 1 at 0x200004, and exits
/// with 7 if all pages still have theirs.
#[rustfmt::skip]
const FILL_AND_CHECK: &[u8] = &[
    0xb9, 0x00, 0x10, 0x20, 0x00, //                      mov ecx, 0x201000
    0x89, 0x09, //                                     1: mov [ecx], ecx
    0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, //                add ecx, 0x1000
    0x81, 0xf9, 0x00, 0x00, 0xc0, 0x00, //                cmp ecx, 0xc00000
    0x72, 0xf0, //                                        jb 1b
    0xc7, 0x05, 0x00, 0x00, 0x20, 0x00, 1, 0, 0, 0, //    mov dword [0x200000], 1
    0x83, 0x3d, 0x04, 0x00, 0x20, 0x00, 0x01, //       2: cmp dword [0x200004], 1
    0x75, 0xf7, //                                        jne 2b
    0xb9, 0x00, 0x10, 0x20, 0x00, //                      mov ecx, 0x201000
    0x39, 0x09, //                                     3: cmp [ecx], ecx
    0x75, 0x12, //                                        jne 4f
    0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, //                add ecx, 0x1000
    0x81, 0xf9, 0x00, 0x00, 0xc0, 0x00, //                cmp ecx, 0xc00000
    0x72, 0xee, //                                        jb 3b
    0xb0, 0x07, //                                        mov al, 7
    0xe6, 0xf4, //                                        out 0xf4, al
    0xf4, //                                           4: hlt
];

fn page_of(vm: &Vm, page: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES as usize];
    vm.memory().read(page * PAGE_BYTES, &mut bytes).expect("a page");
    bytes
}

/// Waits a little for faults and reads them.
fn faults(missing: &MissingPages, into: &mut Vec<PageFault>) {
    let mut ready = [PollFd::from_borrowed_fd(missing.as_fd(), PollFlags::IN)];
    let patience = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    poll(&mut ready, Some(&patience)).expect("polls");
    missing.read_faults(into).expect("reads faults");
}

/// Serves all of `source`'s memory to who waits, until told to stop. Returns the faults served.
fn serve(missing: &MissingPages, source: &Vm, stop: &AtomicBool) -> usize {
    let (mut waiting, mut served) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        faults(missing, &mut waiting);
        for fault in waiting.drain(..) {
            missing.install(fault.page, &page_of(source, fault.page)).expect("installs");
            served += 1;
        }
    }
    served
}

fn filled() -> (Vm, Vec<u8>) {
    let mut source = booted(FILL_AND_CHECK);
    source.start();
    until("memory is filled", || read_u32(&source, COUNTER_AT) == 1);
    source.pause().expect("pauses");
    let state = source.save().expect("saves");
    source.memory().write(COUNTER_AT + 4, &1u32.to_le_bytes()).expect("an address in memory");
    (source, state)
}

#[test]
fn a_guest_finds_every_page_though_all_are_missing() {
    if !common::has_missing_pages("a_guest_finds_every_page_though_all_are_missing") {
        return;
    }
    let (source, state) = filled();
    let mut vm = machine_of(source.config());
    let missing = MissingPages::open(vm.memory()).expect("opens");
    assert!(matches!(MissingPages::open(vm.memory()), Err(MissingPagesError::AlreadyServed)));
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&missing, &source, &stop));
        // The server runs before the state is restored: that may touch memory.
        vm.restore(&state).expect("restores");
        vm.start();
        let event = vm.events().wait_for(PATIENCE).expect("an event");
        assert!(matches!(event, Event::Exited { code: 7 }), "{event}");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server does not panic")
    });
    assert!(served >= 10 << 20 >> 12, "{served} faults for the pages of 10 MiB");
}

#[test]
fn faults_and_pushes_share_the_work() {
    if !common::has_missing_pages("faults_and_pushes_share_the_work") {
        return;
    }
    let (source, state) = filled();
    let mut vm = machine_of(source.config());
    let missing = MissingPages::open(vm.memory()).expect("opens");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&missing, &source, &stop));
        vm.restore(&state).expect("restores");
        vm.start();
        // Chunks of 16 pages, all of them, over whatever the faults have brought already.
        for first in (0..vm.memory().page_count()).step_by(16) {
            let chunk: Vec<u8> = (first..first + 16).flat_map(|page| page_of(&source, page)).collect();
            missing.install(first, &chunk).expect("installs");
        }
        let event = vm.events().wait_for(PATIENCE).expect("an event");
        assert!(matches!(event, Event::Exited { code: 7 }), "{event}");
        stop.store(true, Ordering::Relaxed);
    });
    vm.pause().expect("pauses");
    missing.close().expect("closes");
    for page in 0..vm.memory().page_count() {
        assert_eq!(page_of(&vm, page), page_of(&source, page), "page {page}");
    }
}

#[test]
fn a_present_page_is_never_overwritten() {
    if !common::has_missing_pages("a_present_page_is_never_overwritten") {
        return;
    }
    let vm = machine();
    let missing = MissingPages::open(vm.memory()).expect("opens");
    let page = PAGE_BYTES as usize;
    assert_eq!(missing.install(10, &vec![1; 2 * page]).expect("installs"), 2);
    assert_eq!(missing.install_zeros(14, 1).expect("installs"), 1);
    assert_eq!(missing.install(8, &vec![2; 8 * page]).expect("installs"), 5, "8, 9, 12, 13, 15");
    assert_eq!(missing.install(8, &vec![3; 8 * page]).expect("installs"), 0);
    assert_eq!(missing.install_zeros(8, 9).expect("installs"), 1, "16");
    let bytes: Vec<u8> = (8..17).map(|number| page_of(&vm, number)[page - 1]).collect();
    assert_eq!(bytes, [2, 2, 1, 1, 2, 2, 0, 2, 0]);
    vm.memory().discard(8..9).expect("discards");
    assert_eq!(missing.install(8, &vec![4; page]).expect("installs"), 1, "discarded is missing again");
    missing.wake(0..1).expect("wakes nobody");
    missing.close().expect("closes");
    assert_eq!(page_of(&vm, 100), vec![0; page]);
    MissingPages::open(vm.memory()).expect("opens again").close().expect("closes");
}

/// Issue 12, entry 7: a look at one byte maps zeros for up to 512 pages, which must not count as the guest's.
#[test]
fn entry_7_what_was_touched_before_the_watch_is_missing_all_the_same() {
    let test = "entry_7_what_was_touched_before_the_watch_is_missing_all_the_same";
    if !common::has_missing_pages(test) {
        return;
    }
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let vm = machine_of(&VmConfig { backing, ..common::config(16, 1) });
        let pages = vm.memory().page_count();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Two monitors that never cease to look, and one that writes.
            for reader in 0..2 {
                let (vm, stop) = (&vm, &stop);
                scope.spawn(move || {
                    for page in (reader..pages).cycle().step_by(7) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        read_u32(vm, page * PAGE_BYTES);
                    }
                });
            }
            vm.memory().write(0x40_0000, &[0xff; 64]).expect("an address in memory");
            until("the monitors have looked", || {
                let mut resident = vec![0; vm.memory().bitmap_words()];
                vm.memory().resident(&mut resident).expect("residency");
                common::pages_in(&resident).len() > 100
            });
            let missing = MissingPages::open(vm.memory()).expect("opens");
            let chunk = vec![7; 512 * PAGE_BYTES as usize];
            let new: u64 =
                (0..pages).step_by(512).map(|first| missing.install(first, &chunk).expect("installs")).sum();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(new, pages, "{backing:?}: pages that nobody sent count as present");
            missing.close().expect("closes");
        });
        for page in 0..pages {
            assert_eq!(read_u32(&vm, page * PAGE_BYTES), 0x0707_0707, "page {page}");
        }
    }
}

/// A page that came before, and was written again at its source, holds a stale copy: one that counted as present would be
/// a lost page.
#[test]
fn pages_that_came_before_stay_and_stale_ones_are_missing() {
    if !common::has_missing_pages("pages_that_came_before_stay_and_stale_ones_are_missing") {
        return;
    }
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let vm = machine_of(&VmConfig { backing, ..common::config(16, 1) });
        let missing = MissingPages::prepare(vm.memory()).expect("opens");
        let page = PAGE_BYTES as usize;
        // Nobody serves faults yet: all of them would wait for ever.
        for number in 0..1024 {
            vm.memory().write(number * PAGE_BYTES, &vec![1; page]).expect("an address in memory");
        }
        let stale = [3..5, 511..1024];
        missing.watch(stale.clone()).expect("watches");
        let is_stale = |number: &u64| stale.iter().any(|range| range.contains(number));
        for number in (0..1024).filter(|number| !is_stale(number)) {
            assert_eq!(page_of(&vm, number), vec![1; page], "{backing:?}: page {number} came before");
        }
        let waits = |number: u64| {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| page_of(&vm, number));
                let mut waiting = Vec::new();
                until("the stale page is waited for", || {
                    faults(&missing, &mut waiting);
                    !waiting.is_empty() || reader.is_finished()
                });
                assert!(waiting.iter().any(|fault| fault.page == number), "{backing:?}: {number} is stale");
                assert_eq!(missing.install(number, &vec![2; page]).expect("installs"), 1);
                reader.join().expect("it reads")
            })
        };
        for number in [3, 4, 511, 512, 700, 1023] {
            assert_eq!(waits(number), vec![2; page], "{backing:?}: page {number}");
        }
        assert_eq!(missing.install(0, &vec![2; 1024 * page]).expect("installs"), 2 + 513 - 6);
        missing.close().expect("closes");
        for number in 0..1024 {
            let expected = if is_stale(&number) { 2 } else { 1 };
            assert_eq!(page_of(&vm, number), vec![expected; page], "{backing:?}: page {number}");
        }
    }
}

#[test]
fn a_block_is_moved_whole_or_around_what_is_present() {
    if !common::has_missing_pages("a_block_is_moved_whole_or_around_what_is_present") {
        return;
    }
    let vm = machine();
    let area = LandingArea::new(vm.memory()).expect("an area");
    area.populate_while(&|| true).expect("populates");
    let missing = MissingPages::open(vm.memory()).expect("opens").with_landing_area(area);
    let area = missing.landing_area().expect("an area");
    let pages = (2 << 20) / PAGE_BYTES;
    for block in 0..4 {
        assert!(missing.take(&(block * pages..(block + 1) * pages)));
        assert!(!missing.take(&(block * pages..(block + 1) * pages)), "taken once");
    }
    for page in 0..4 * pages {
        // SAFETY: within the area, which nobody else uses.
        unsafe {
            area.as_ptr().add((page * PAGE_BYTES) as usize).write_bytes(page as u8 ^ 1, PAGE_BYTES as usize);
        };
    }
    assert_eq!(missing.install_landed(0..pages).expect("installs"), pages, "moved");
    missing.install(2 * pages + 7, &vec![9; PAGE_BYTES as usize]).expect("installs");
    // A part of one block, a block with a page that is there, and a part of another.
    let around = pages + 5..3 * pages + 11;
    assert_eq!(missing.install_landed(around.clone()).expect("installs"), around.end - around.start - 1);
    assert_eq!(missing.install_landed(2 * pages..3 * pages).expect("installs"), 0, "all present");
    let first_byte = |page: u64| page_of(&vm, page)[100];
    for page in (0..pages).chain(around) {
        assert_eq!(first_byte(page), if page == 2 * pages + 7 { 9 } else { page as u8 ^ 1 }, "page {page}");
    }
    missing.close().expect("closes");
}

#[test]
fn a_machine_whose_pages_never_come_can_be_dropped() {
    if !common::has_missing_pages("a_machine_whose_pages_never_come_can_be_dropped") {
        return;
    }
    let mut source = booted(COUNT);
    let state = source.save().expect("saves");
    let mut vm = machine_of(source.config());
    let missing = MissingPages::open(vm.memory()).expect("opens");
    // What restoring may touch is there; what the guest runs is not.
    vm.restore(&state).expect("restores");
    vm.start();
    let mut waiting = Vec::new();
    until("the guest waits for a page", || {
        faults(&missing, &mut waiting);
        !waiting.is_empty()
    });
    drop(missing);
    drop(vm);
    source.start();
    until_counting(&source);
}
