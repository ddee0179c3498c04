//! Ends: asked for, or not.

use core::fmt::Arguments;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use telemetry::Phase;

use crate::cpu::{self, outb};
use crate::{guest, uart};

/// A write here ends the machine: QEMU's isa-debug-exit (exit status `2 * value + 1`), and Ferry's.
const EXIT_PORT: u16 = 0xf4;
/// Exit code after an exception, a panic or bad input.
const FAILED: u8 = 101;

/// Ring 0's copy of the stack at an exception, from the vector on, then CR2.
#[unsafe(no_mangle)]
static fault_frame: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// Stops the machine, with an exit code where it has an exit port. Only vCPU 0.
pub fn stop(code: u8) -> ! {
    let header = &guest::telemetry().header;
    header.stopped.store(u64::from(code) + 1, SeqCst);
    if header.phase.load(SeqCst) != Phase::Failed as u64 {
        header.phase.store(Phase::Halted as u64, SeqCst);
    }
    outb(EXIT_PORT, code);
    uart::say(format_args!("pulse: halted; this machine has no exit port\r\n"));
    loop {
        cpu::halt();
    }
}

/// Reports why the guest cannot go on, and stops. Only vCPU 0.
pub fn fail(why: Arguments<'_>) -> ! {
    guest::telemetry().header.phase.store(Phase::Failed as u64, SeqCst);
    uart::say(format_args!("\r\npulse: failed: {why}\r\n"));
    stop(FAILED)
}

/// Ends the guest if another vCPU ended in [`record`]. Called now and then by vCPU 0, which alone has the console.
pub fn report_others() {
    let header = &guest::telemetry().header;
    if header.phase.load(SeqCst) == Phase::Failed as u64 {
        let (vector, at) = (header.fault_vector.load(SeqCst), header.fault_at.load(SeqCst));
        let address = header.fault_address.load(SeqCst);
        fail(format_args!("vCPU ended: exception {vector:#x} - 1 at {at:#x}, address {address:#x}"));
    }
}

fn record(vector: u64, at: u64, address: u64) {
    let header = &guest::telemetry().header;
    header.fault_vector.store(vector + 1, SeqCst);
    header.fault_at.store(at, SeqCst);
    header.fault_address.store(address, SeqCst);
    header.phase.store(Phase::Failed as u64, SeqCst);
}

/// Where ring 0 sends a vCPU after an exception.
#[unsafe(no_mangle)]
extern "C" fn ring3_fault(vcpu: u64) -> ! {
    let word = |i: usize| fault_frame[i].load(SeqCst);
    let vector = word(0);
    // These push an error code before the instruction pointer.
    let has_code = matches!(vector, 8 | 10..=14 | 17 | 21);
    let at = word(1 + usize::from(has_code));
    record(vector, at, word(7));
    if vcpu == 0 {
        fail(format_args!("exception {vector} at {at:#x}, address {:#x}", word(7)));
    }
    loop {
        cpu::halt();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    const PANIC: u64 = 0x1000;
    let line = info.location().map_or(0, core::panic::Location::line);
    record(PANIC, u64::from(line), 0);
    let mut task = 0u16;
    // The task register tells the vCPU; only vCPU 0 may use the console.
    // SAFETY: STR only reads a register.
    unsafe { core::arch::asm!("str {0:x}", out(reg) task, options(nomem, nostack)) };
    if task == 0x30 {
        fail(format_args!("{info}"));
    }
    loop {
        cpu::halt();
    }
}
