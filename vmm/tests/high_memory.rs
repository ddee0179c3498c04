//! Memory above 4 GiB is reached by the guest, counted densely, and logged.

mod common;

use common::{booted_on, config, copy_memory, machine_of, pages_in, read_u32, until};
use vmm::{HIGH_MEMORY_START, LOW_MEMORY_END, PAGE_BYTES};

/// Turns long mode on with tables that the test writes, and counts at 4 GiB.
#[rustfmt::skip]
const COUNT_HIGH: &[u8] = &[
    0x0f, 0x01, 0x15, 0x20, 0x20, 0x01, 0x00, //    lgdt [0x12020]
    0x0f, 0x20, 0xe0, //                            mov eax, cr4
    0x83, 0xc8, 0x20, //                            or eax, PAE
    0x0f, 0x22, 0xe0, //                            mov cr4, eax
    0xb8, 0x00, 0x00, 0x01, 0x00, //                mov eax, 0x10000
    0x0f, 0x22, 0xd8, //                            mov cr3, eax
    0xb9, 0x80, 0x00, 0x00, 0xc0, //                mov ecx, MSR_EFER
    0x0f, 0x32, //                                  rdmsr
    0x0d, 0x00, 0x01, 0x00, 0x00, //                or eax, LME
    0x0f, 0x30, //                                  wrmsr
    0x0f, 0x20, 0xc0, //                            mov eax, cr0
    0x0d, 0x00, 0x00, 0x00, 0x80, //                or eax, PG
    0x0f, 0x22, 0xc0, //                            mov cr0, eax
    0xea, 0x38, 0x00, 0x10, 0x00, 0x08, 0x00, //    jmp 8:0x100038, which is the next one, now of 64 bits
    0x48, 0xb9, 0, 0, 0, 0, 1, 0, 0, 0, //          mov rcx, 0x100000000
    0xff, 0x01, //                               1: inc dword [rcx]
    0xeb, 0xfc, //                                  jmp 1b
];

#[test]
fn a_guest_counts_above_4_gib() {
    if !common::has_kvm("a_guest_counts_above_4_gib") {
        return;
    }
    let config = config((LOW_MEMORY_END >> 20) + 64, 1);
    let mut first = booted_on(&config, COUNT_HIGH);
    let write = |address: u64, entry: u64| {
        first.memory().write(address, &entry.to_le_bytes()).expect("an address in memory");
    };
    // Tables of four levels, all present, writable, accessed: 0..2 MiB to itself, and 4 GiB..4 GiB + 2 MiB.
    write(0x1_0000, 0x1_1027);
    write(0x1_1000, 0x1_3027);
    write(0x1_1000 + 4 * 8, 0x1_4027);
    write(0x1_3000, 0xe7);
    write(0x1_4000, HIGH_MEMORY_START | 0xe7);
    // A table of segments: null, and code of 64 bits; and the register that says where it is.
    write(0x1_2008, 0x00af_9b00_0000_ffff);
    write(0x1_2020, 0x1_2000 << 16 | 0xf);
    let memory = first.memory();
    assert_eq!(memory.offset_of(HIGH_MEMORY_START), Some(LOW_MEMORY_END));
    assert!(memory.read(LOW_MEMORY_END, &mut [0]).is_err(), "nothing in the hole");
    assert!(memory.read(LOW_MEMORY_END - 1, &mut [0; 2]).is_err(), "nor across its border");

    first.start();
    let counting = |vm: &vmm::Vm| {
        let before = read_u32(vm, HIGH_MEMORY_START);
        until("the guest counts above 4 GiB", || read_u32(vm, HIGH_MEMORY_START) != before);
    };
    counting(&first);
    first.start_dirty_log().expect("starts");
    let mut bits = vec![0; first.memory().bitmap_words()];
    assert_eq!(first.harvest_dirty(&mut bits).expect("harvests"), first.memory().page_count());
    first.memory().write(HIGH_MEMORY_START + 3 * PAGE_BYTES, &[1]).expect("an address in memory");
    counting(&first);
    bits.fill(0);
    first.harvest_dirty(&mut bits).expect("harvests");
    let page = LOW_MEMORY_END / PAGE_BYTES;
    assert_eq!(pages_in(&bits), [page, page + 3]);

    first.pause().expect("pauses");
    let state = first.save().expect("saves");
    let mut second = machine_of(&config);
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    second.start();
    counting(&second);
}
