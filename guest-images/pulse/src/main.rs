//! `pulse`: Ferry's built-in guest. It proves its own memory and measures its own gaps, on bare metal.
//!
//! See `README.md` for the map. Ring 0 is `ring0/*.s` and nothing else; everything in Rust runs in ring 3, where a KVM
//! with page-table virtualisation runs it natively. One vCPU is one worker (`worker.rs`); they share no memory that is
//! written after boot.
#![no_std]
#![no_main]

mod apic;
mod boot;
mod builtins;
mod check;
mod console;
mod cpu;
mod failure;
mod guest;
mod housekeeping;
mod image;
mod ioapic;
mod memory;
mod net;
mod schedule;
mod spin;
mod tsc;
mod uart;
mod worker;

use core::arch::global_asm;

global_asm!(
    include_str!("ring0/layout.s"),
    include_str!("ring0/tables.s"),
    include_str!("ring0/gates.s"),
    include_str!("ring0/boot.s"),
    options(att_syntax)
);

/// Where ring 0 hands over, once for each vCPU, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn ring3_main(vcpu: u64, start_info: u64) -> ! {
    if vcpu == 0 { boot::boot(start_info) } else { worker::run(vcpu as usize) }
}
