//! How fast the TSC counts, from whoever knows: command line, kvmclock, CPUID, or the timer chip.

use core::arch::x86_64::__cpuid as leaf;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::cpu::{inb, outb, rdtsc};

/// KVM's clock page (`struct pvclock_vcpu_time_info`), which ring 0 registers if the hypervisor has it.
#[repr(C, align(64))]
pub struct KvmClock([AtomicU64; 8]);

#[unsafe(no_mangle)]
static kvmclock: KvmClock = KvmClock([const { AtomicU64::new(0) }; 8]);

/// The TSC's frequency in kHz.
pub fn khz(told: Option<u64>) -> u64 {
    told.or_else(from_kvmclock)
        .or_else(from_cpuid)
        .unwrap_or_else(from_timer)
}

/// kvmclock says how to make nanoseconds of ticks: `(ticks << shift) * mul / 2^32`.
fn from_kvmclock() -> Option<u64> {
    let word = kvmclock.0[3].load(Relaxed);
    let (mul, shift) = (word & 0xffff_ffff, (word >> 32) as i8);
    if mul == 0 {
        return None;
    }
    let khz = (1_000_000u64 << 32) / mul;
    Some(if shift < 0 {
        khz << -shift
    } else {
        khz >> shift
    })
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
