//! Single instructions of the processor.

use core::arch::asm;
use core::sync::atomic::AtomicU32;

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

static NEVER: AtomicU32 = AtomicU32::new(0);

/// A word that no interrupt sets.
pub fn never() -> &'static AtomicU32 {
    &NEVER
}

/// Sleeps until the next interrupt.
pub fn halt() {
    halt_unless(never());
}

/// Sleeps until the next interrupt, unless an interrupt's handler has set this word: however late, none is slept over.
/// HLT faults in ring 3, and ring 0's handler looks at the word and sleeps in its place.
pub fn halt_unless(word: &AtomicU32) {
    // SAFETY: the handler reads the word at RDI, keeps all registers and goes on after the instruction.
    unsafe { asm!("hlt", in("rdi") word.as_ptr(), options(nostack)) };
}

/// Waits until `ticks` of the TSC have passed.
pub fn wait(ticks: u64) {
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < ticks {}
}
