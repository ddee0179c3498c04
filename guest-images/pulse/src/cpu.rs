//! Single instructions of the processor.

use core::arch::asm;

/// The time-stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter; CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Writes a byte to an I/O port. Only vCPU 0 may: its TSS has the I/O bitmap.
pub fn outb(port: u16, value: u8) {
    // SAFETY: port I/O does not touch memory (no device here does DMA).
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    };
}

/// Reads a byte from an I/O port. Only vCPU 0 may.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as for `outb`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    };
    value
}

/// Sleeps until the next interrupt. HLT faults in ring 3, and ring 0's handler sleeps in its place.
pub fn halt() {
    // SAFETY: the handler keeps all registers and goes on after the instruction.
    unsafe { asm!("hlt", options(nomem)) };
}

/// Waits until `ticks` of the TSC have passed.
pub fn wait(ticks: u64) {
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < ticks {}
}
