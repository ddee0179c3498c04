//! The guest's clocks go on by the time that passed between save and restore, and never back.

mod common;

use std::time::Duration;

use common::{booted, copy_memory, machine_of, read_u64, until_counting};

/// The guest's kvmclock page: struct pvclock_vcpu_time_info of asm/pvclock-abi.h, time in nanoseconds at offset 16.
const SYSTEM_TIME_AT: u64 = 0x20_0100 + 16;
/// Where the guest puts its time stamp counter.
const TSC_AT: u64 = 0x20_0010;

#[rustfmt::skip]
const CLOCKED: &[u8] = &[
    0xb9, 0x01, 0x4d, 0x56, 0x4b, //          mov ecx, MSR_KVM_SYSTEM_TIME_NEW
    0xb8, 0x01, 0x01, 0x20, 0x00, //          mov eax, 0x200100 | 1
    0x31, 0xd2, //                            xor edx, edx
    0x0f, 0x30, //                            wrmsr
    0xb9, 0x00, 0x00, 0x20, 0x00, //          mov ecx, 0x200000
    0x0f, 0x31, //                         1: rdtsc
    0x89, 0x41, 0x10, //                      mov [ecx + 16], eax
    0x89, 0x51, 0x14, //                      mov [ecx + 20], edx
    0xff, 0x01, //                            inc dword [ecx]
    0xeb, 0xf4, //                            jmp 1b
];

#[test]
fn guest_time_goes_on_over_the_gap() {
    if !common::has_kvm("guest_time_goes_on_over_the_gap") {
        return;
    }
    let mut first = booted(CLOCKED);
    first.start();
    until_counting(&first);
    first.pause().expect("pauses");
    let state = first.save().expect("saves");
    let (time, tsc) = (read_u64(&first, SYSTEM_TIME_AT), read_u64(&first, TSC_AT));
    assert!(time > 0, "the guest has a clock");
    let gap = Duration::from_millis(50);
    std::thread::sleep(gap);
    let mut second = machine_of(first.config());
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    second.start();
    until_counting(&second);
    second.pause().expect("pauses");
    let (later, tsc_later) = (read_u64(&second, SYSTEM_TIME_AT), read_u64(&second, TSC_AT));
    assert!(later >= time + gap.as_nanos() as u64, "guest time went from {time} to {later} ns over {gap:?}");
    let ticks = gap.as_micros() as u64 * u64::from(first.cpu().tsc_khz) / 1000;
    assert!(tsc_later >= tsc + ticks, "the TSC went from {tsc} to {tsc_later} over {ticks} ticks");
}
