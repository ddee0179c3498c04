//! Several vCPUs start, pause, move and go on together, those that were never started included.

mod common;

use common::{config, copy_memory, machine_of, read_u32, until};
use vmm::{MAX_VCPUS, Vm};

/// Each vCPU counts at this address plus four times its number.
const COUNTERS_AT: u64 = 0x5_0000;
/// Where the first vCPU sends the others: page 9, in real mode.
const TRAMPOLINE_AT: u64 = 0x9000;

#[rustfmt::skip]
const FIRST: &[u8] = &[
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00, //    mov dword [0xfee00300], INIT to all others
    0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x09, 0x46, 0x0c, 0x00, //    mov dword [0xfee00300], start-up at page 9
    0xb9, 0x00, 0x00, 0x05, 0x00, //                                  mov ecx, 0x50000
    0xff, 0x01, //                                                 1: inc dword [ecx]
    0xeb, 0xfc, //                                                    jmp 1b
];

#[rustfmt::skip]
const OTHERS: &[u8] = &[
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x00, //    mov eax, 1
    0x0f, 0xa2, //                            cpuid
    0x66, 0xc1, 0xeb, 0x18, //                shr ebx, 24      the APIC's number
    0xc1, 0xe3, 0x02, //                      shl bx, 2
    0xb8, 0x00, 0x50, //                      mov ax, 0x5000
    0x8e, 0xd8, //                            mov ds, ax
    0x66, 0xff, 0x07, //                   1: inc dword [bx]
    0xeb, 0xfb, //                            jmp 1b
];

fn booted(vcpus: u8) -> Vm {
    let vm = common::booted_on(&config(16, vcpus), FIRST);
    vm.memory().write(TRAMPOLINE_AT, OTHERS).expect("an address in memory");
    vm
}

fn counters(vm: &Vm) -> Vec<u32> {
    (0..u64::from(vm.config().vcpus)).map(|vcpu| read_u32(vm, COUNTERS_AT + 4 * vcpu)).collect()
}

fn until_all_count(vm: &Vm) {
    let before = counters(vm);
    until("all vCPUs count", || counters(vm).iter().zip(&before).all(|(now, before)| now != before));
}

#[test]
fn all_vcpus_stop_and_go_on_elsewhere() {
    if !common::has_kvm("all_vcpus_stop_and_go_on_elsewhere") {
        return;
    }
    for vcpus in [2, 4, MAX_VCPUS] {
        let mut first = booted(vcpus);
        first.start();
        until_all_count(&first);
        for _ in 0..20 {
            first.pause().expect("pauses");
            let standing = counters(&first);
            std::thread::sleep(std::time::Duration::from_micros(100));
            assert_eq!(counters(&first), standing);
            first.resume().expect("resumes");
        }
        first.pause().expect("pauses");
        let state = first.save().expect("saves");
        let mut second = machine_of(first.config());
        copy_memory(&first, &second);
        second.restore(&state).expect("restores");
        second.start();
        until_all_count(&second);
    }
}

#[test]
fn vcpus_that_wait_to_be_started_move_too() {
    if !common::has_kvm("vcpus_that_wait_to_be_started_move_too") {
        return;
    }
    // Saved before the first instruction: the start-up messages are sent at the destination only.
    let mut first = booted(3);
    let state = first.save().expect("saves");
    let mut second = machine_of(first.config());
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    second.start();
    until_all_count(&second);
}
