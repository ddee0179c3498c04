//! The dirty log names just the pages that were written, by the guest or by the VMM, and loses none.

mod common;

use common::{
    COUNT, COUNTER_AT, booted, copy_memory, machine, machine_of, pages_in, read_u32, until_counting,
};
use vmm::{DirtyLogError, PAGE_BYTES, Vm};

fn harvest(vm: &mut Vm) -> Vec<u64> {
    let mut bits = vec![0; vm.memory().bitmap_words()];
    let count = vm.harvest_dirty(&mut bits).expect("harvests");
    let pages = pages_in(&bits);
    assert_eq!(count, pages.len() as u64);
    pages
}

#[test]
fn every_page_is_dirty_once_and_then_those_written() {
    if !common::has_kvm("every_page_is_dirty_once_and_then_those_written") {
        return;
    }
    // Writes a byte every other page from 2 to 3 MiB, counts at 0x200004 when through, and starts again only when the
    // VMM has taken that count back.
    let mut vm = booted(&[
        0xb9, 0x00, 0x10, 0x20, 0x00, //                      1: mov ecx, 0x201000
        0xfe, 0x01, //                                        2: inc byte [ecx]
        0x81, 0xc1, 0x00, 0x20, 0x00, 0x00, //                   add ecx, 0x2000
        0x81, 0xf9, 0x00, 0x00, 0x30, 0x00, //                   cmp ecx, 0x300000
        0x72, 0xf0, //                                           jb 2b
        0xc7, 0x05, 0x00, 0x00, 0x20, 0x00, 1, 0, 0, 0, //       mov dword [0x200000], 1
        0x83, 0x3d, 0x00, 0x00, 0x20, 0x00, 0x00, //          3: cmp dword [0x200000], 0
        0x75, 0xf7, //                                           jne 3b
        0xeb, 0xd6, //                                           jmp 1b
    ]);
    assert!(matches!(vm.harvest_dirty(&mut [0; 64]), Err(DirtyLogError::Off)));
    vm.start_dirty_log().expect("starts");
    assert!(matches!(vm.harvest_dirty(&mut [0; 63]), Err(DirtyLogError::ShortBitmap { needed: 64, .. })));
    assert_eq!(harvest(&mut vm), (0..4096).collect::<Vec<u64>>(), "every page, once");
    assert_eq!(harvest(&mut vm), [0u64; 0], "and only once");
    vm.start();
    common::until("the guest is through", || read_u32(&vm, COUNTER_AT) == 1);
    let first = COUNTER_AT / PAGE_BYTES;
    let mut written = vec![first];
    written.extend((first + 1..0x30_0000 / PAGE_BYTES).step_by(2));
    for _ in 0..3 {
        assert_eq!(harvest(&mut vm), written);
        assert_eq!(harvest(&mut vm), [0u64; 0], "the guest only reads now");
        vm.memory().write(COUNTER_AT, &0u32.to_le_bytes()).expect("an address in memory");
        common::until("the guest is through again", || read_u32(&vm, COUNTER_AT) == 1);
    }
    vm.stop_dirty_log().expect("stops");
    vm.stop_dirty_log().expect("is off already");
    assert!(matches!(vm.harvest_dirty(&mut [0; 64]), Err(DirtyLogError::Off)));
    vm.start_dirty_log().expect("starts again");
    assert_eq!(harvest(&mut vm).len(), 4096, "every page, once more");
}

#[test]
fn what_the_vmm_writes_is_dirty() {
    if !common::has_kvm("what_the_vmm_writes_is_dirty") {
        return;
    }
    let mut vm = booted(COUNT);
    vm.start_dirty_log().expect("starts");
    harvest(&mut vm);
    // Two bytes over a page's border.
    vm.memory().write(5 * PAGE_BYTES - 1, &[1, 2]).expect("an address in memory");
    assert_eq!(harvest(&mut vm), [4, 5]);
    assert_eq!(harvest(&mut vm), [0u64; 0]);
}

#[test]
fn bits_set_before_stay_set() {
    if !common::has_kvm("bits_set_before_stay_set") {
        return;
    }
    let mut vm = booted(COUNT);
    vm.start_dirty_log().expect("starts");
    harvest(&mut vm);
    vm.memory().write(70 * PAGE_BYTES, &[1]).expect("an address in memory");
    let mut bits = vec![0; 64];
    bits[3] = 9;
    assert_eq!(vm.harvest_dirty(&mut bits).expect("harvests"), 1);
    assert_eq!((bits[1], bits[3]), (1 << 6, 9));
}

/// The rule that a page is copied after its bit was cleared, tested by what it is for: rounds of copying while the guest
/// writes, a last one when it is paused, and both memories are the same.
#[test]
fn rounds_of_harvest_and_copy_lose_no_write() {
    if !common::has_kvm("rounds_of_harvest_and_copy_lose_no_write") {
        return;
    }
    // Counts in the first word of each page from 2 to 12 MiB, round and round.
    let mut first = booted(&[
        0xb9, 0x00, 0x00, 0x20, 0x00, //       1: mov ecx, 0x200000
        0xff, 0x01, //                         2: inc dword [ecx]
        0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, //    add ecx, 0x1000
        0x81, 0xf9, 0x00, 0x00, 0xc0, 0x00, //    cmp ecx, 0xc00000
        0x72, 0xf0, //                            jb 2b
        0xeb, 0xe9, //                            jmp 1b
    ]);
    let second = machine_of(first.config());
    first.start();
    first.start_dirty_log().expect("starts");
    let copy = |vm: &Vm, pages: &[u64]| {
        let mut bytes = [0; PAGE_BYTES as usize];
        for page in pages {
            vm.memory().read(page * PAGE_BYTES, &mut bytes).expect("a page");
            second.memory().write(page * PAGE_BYTES, &bytes).expect("a page");
        }
    };
    for _ in 0..20 {
        let pages = harvest(&mut first);
        copy(&first, &pages);
    }
    first.pause().expect("pauses");
    let pages = harvest(&mut first);
    copy(&first, &pages);
    for address in (0..first.memory().size_bytes()).step_by(PAGE_BYTES as usize) {
        assert_eq!(read_u32(&first, address), read_u32(&second, address), "page {}", address / PAGE_BYTES);
    }
}

#[test]
fn a_second_machine_logs_as_well() {
    if !common::has_kvm("a_second_machine_logs_as_well") {
        return;
    }
    let mut first = booted(COUNT);
    let state = first.save().expect("saves");
    let mut second = machine();
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    second.start_dirty_log().expect("starts");
    harvest(&mut second);
    second.start();
    until_counting(&second);
    assert_eq!(harvest(&mut second), [COUNTER_AT / PAGE_BYTES]);
}
