//! The local APIC, and the interrupt controllers before it. Their registers are memory that ring 3 may touch.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use telemetry::Phase;

use crate::cpu::{self, outb, rdtsc};
use crate::guest;

const LOCAL_APIC: usize = 0xfee0_0000;
const SPURIOUS_VECTOR: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const TIMER: usize = 0x320;
const LINT0: usize = 0x350;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3e0;
/// In a local vector: nothing comes through.
const MASKED: u32 = 1 << 16;
/// In a local vector: the old controllers name the vector.
const EXTERNAL: u32 = 0x700;

/// Page that starting processors begin in; ring 0's trampoline is assembled for it.
pub const TRAMPOLINE: usize = 0x8000;

unsafe extern "C" {
    static trampoline: [u8; 0];
    static trampoline_end: [u8; 0];
    static started_vcpu: AtomicU32;
}

fn read(register: usize) -> u32 {
    // SAFETY: the local APIC's page is mapped and every vCPU sees its own.
    unsafe { core::ptr::with_exposed_provenance::<u32>(LOCAL_APIC + register).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`; no register written here makes the APIC touch memory.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u32>(LOCAL_APIC + register).write_volatile(value);
    };
}

/// Turns this vCPU's local APIC on; vCPU 0 also takes the serial port's interrupt, through the old controllers.
pub fn init(vcpu: usize) {
    // Before the old controllers are touched: to initialise them opens all their lines, and until they have their new
    // vectors, the timer that firmware left running would come in as exception 8.
    write(LINT0, MASKED);
    write(SPURIOUS_VECTOR, 0x1ff);
    if vcpu > 0 {
        return;
    }
    // Initialise both 8259s with vectors from 0x20 and 0x28 and let IRQ 4 alone through; LINT0 passes it on as ExtINT.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 0x04),
        (0xa1, 0x02),
        (0x21, 0x01),
        (0xa1, 0x01),
        (0xa1, 0xff),
        (0x21, 0xef),
    ] {
        outb(port, value);
    }
    write(LINT0, EXTERNAL);
}

/// Starts this vCPU's timer: an interrupt each `period_ms` milliseconds, which ends a HLT.
pub fn start_timer(tsc_khz: u64, period_ms: u64) {
    const ONE_TO_ONE: u32 = 0b1011;
    const PERIODIC: u32 = 1 << 17;
    const VECTOR: u32 = 0x40;
    // The timer's frequency is the machine's own affair: count it against the TSC for a millisecond.
    write(TIMER_DIVIDE, ONE_TO_ONE);
    write(TIMER, MASKED);
    write(TIMER_INITIAL, u32::MAX);
    let start = rdtsc();
    cpu::wait(tsc_khz);
    let counted = u64::from(u32::MAX - read(TIMER_CURRENT));
    let elapsed = rdtsc() - start;
    let period = counted * tsc_khz / elapsed.max(1) * period_ms;
    write(TIMER, PERIODIC | VECTOR);
    write(TIMER_INITIAL, u32::try_from(period.max(1_000)).unwrap_or(u32::MAX));
}

/// Starts vCPU `vcpu`, whose APIC id is its number, and waits until it runs. False if it does not within a second.
pub fn start_vcpu(vcpu: usize, tsc_khz: u64) -> bool {
    const INIT: u32 = 0x4500;
    const STARTUP: u32 = 0x4600;
    // SAFETY: both symbols bound the trampoline's code; its page is RAM that nothing else uses until the fill.
    unsafe {
        let code = &raw const trampoline;
        let bytes = (&raw const trampoline_end).addr() - code.addr();
        let page = core::ptr::with_exposed_provenance_mut::<u8>(TRAMPOLINE);
        core::ptr::copy_nonoverlapping(code.cast::<u8>(), page, bytes);
        started_vcpu.store(vcpu as u32, SeqCst);
    }
    let part = &guest::telemetry().vcpus[vcpu];
    let runs = || part.phase.load(SeqCst) == Phase::Booting as u64;
    let send = |command: u32| {
        write(COMMAND_HIGH, (vcpu as u32) << 24);
        write(COMMAND_LOW, command);
    };
    send(INIT);
    cpu::wait(tsc_khz * 10);
    // Twice, as the manual has it: the second is ignored by a processor that runs.
    for _ in 0..2 {
        send(STARTUP | (TRAMPOLINE >> 12) as u32);
        let start = rdtsc();
        while rdtsc() - start < tsc_khz * 500 {
            if runs() {
                return true;
            }
        }
    }
    false
}
