//! The guest's clocks. How fast the TSC counts, from whoever knows: command line, kvmclock, CPUID, or the timer chip.

use core::arch::x86_64::__cpuid as leaf;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

use crate::cpu::{inb, outb, rdtsc};

/// KVM's clock page (`struct pvclock_vcpu_time_info`: version, TSC, nanoseconds, scale), which ring 0 registers if the
/// hypervisor has it.
#[repr(C, align(64))]
pub struct KvmClock([AtomicU64; 8]);

#[unsafe(no_mangle)]
static kvmclock: KvmClock = KvmClock([const { AtomicU64::new(0) }; 8]);

/// The TSC's frequency in kHz.
pub fn khz(told: Option<u64>) -> u64 {
    told.or_else(from_kvmclock).or_else(from_cpuid).unwrap_or_else(from_timer)
}

/// kvmclock says how to make nanoseconds of ticks: `(ticks << shift) * mul / 2^32`.
fn from_kvmclock() -> Option<u64> {
    let word = kvmclock.0[3].load(Relaxed);
    let (mul, shift) = (word & 0xffff_ffff, (word >> 32) as i8);
    if mul == 0 {
        return None;
    }
    let khz = (1_000_000u64 << 32) / mul;
    Some(if shift < 0 { khz << -shift } else { khz >> shift })
}

/// The guest's clock in nanoseconds; `None` without kvmclock, or while KVM writes the page.
pub fn clock_ns() -> Option<u64> {
    let version = kvmclock.0[0].load(Acquire) as u32;
    let word = kvmclock.0[3].load(Relaxed);
    let (mul, shift) = (word & 0xffff_ffff, (word >> 32) as i8);
    let ticks = rdtsc().wrapping_sub(kvmclock.0[1].load(Relaxed));
    let scaled = if shift < 0 { ticks >> -shift } else { ticks << shift };
    let elapsed = ((u128::from(scaled) * u128::from(mul)) >> 32) as u64;
    let clock = kvmclock.0[2].load(Acquire).wrapping_add(elapsed);
    let unchanged = kvmclock.0[0].load(Acquire) as u32 == version;
    (mul != 0 && version.is_multiple_of(2) && unchanged).then_some(clock)
}

fn from_cpuid() -> Option<u64> {
    let timing = leaf(0x4000_0000).eax;
    if (0x4000_0010..0x4000_0100).contains(&timing) {
        let khz = leaf(0x4000_0010).eax;
        if khz != 0 {
            return Some(u64::from(khz));
        }
    }
    if leaf(0).eax < 0x15 {
        return None;
    }
    let crystal = leaf(0x15);
    if crystal.eax == 0 || crystal.ebx == 0 || crystal.ecx == 0 {
        return None;
    }
    Some(u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax) / 1_000)
}

/// Counts the TSC against the timer chip's channel 0 for 20 ms. Without a timer chip, 1 GHz is as wrong as any.
fn from_timer() -> u64 {
    const HERTZ: u64 = 1_193_182;
    const COUNT: u16 = (HERTZ / 50) as u16;
    const PATIENCE: u32 = 200_000;
    let counter = || {
        outb(0x43, 0x00); // latch channel 0
        u16::from(inb(0x40)) | u16::from(inb(0x40)) << 8
    };
    outb(0x43, 0x30); // channel 0, both bytes, mode 0: counts down once
    outb(0x40, 0xff);
    outb(0x40, 0xff);
    let (first, start) = (counter(), rdtsc());
    for _ in 0..PATIENCE {
        let counted = first.wrapping_sub(counter());
        let ticks = rdtsc() - start;
        if counted >= COUNT {
            return ticks * HERTZ / u64::from(counted) / 1_000;
        }
    }
    1_000_000
}
