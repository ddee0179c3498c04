//! What lies where a PC's firmware starts.
//!
//! A Linux that finds a hardware-reduced machine takes it for one with EFI (`reboot_init` in arch/x86/kernel/reboot.c), and
//! without finding EFI reboots by jumping to the firmware's entry in real mode. There is none; this stands for it.

use crate::memory::{AccessError, GuestMemory};

/// F000:FFF0.
const ADDRESS: u64 = 0xf_fff0;

/// Resets the machine as the keyboard controller does.
const CODE: [u8; 7] = [
    0xb0, 0xfe, // 1: mov al, 0xfe
    0xe6, 0x64, //    out 0x64, al
    0xf4, //          hlt
    0xeb, 0xf9, //    jmp 1b
];

/// Puts the code there.
pub(super) fn write(memory: &GuestMemory) -> Result<(), AccessError> {
    memory.write(ADDRESS, &CODE)
}
