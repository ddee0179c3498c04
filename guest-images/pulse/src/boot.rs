//! Boot, on vCPU 0: from the boot protocol's structure to all vCPUs running.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use telemetry::layout::{MAGIC, VERSION};
use telemetry::oracle::PageRange;
use telemetry::{CommandLine, Fill, PAGE_SIZE, Phase};

use crate::cpu::rdtsc;
use crate::failure::fail;
use crate::guest::{self, Guest};
use crate::memory::{self, Layout, StartInfo};
use crate::{apic, tsc, uart, worker};

/// Longest command line read.
const COMMAND_LINE_BYTES: usize = 4096;

/// Boots, and becomes the first worker.
pub fn boot(start_info: u64) -> ! {
    let boot_tsc = rdtsc();
    uart::init();
    let Some(info) = StartInfo::at(start_info) else {
        fail(format_args!("no PVH start_info with a memory map at {start_info:#x}"))
    };
    // Everything the boot protocol left in memory is read here: the fill will overwrite it.
    let line = command_line(info);
    let firmware = memory::has_firmware();
    if firmware {
        clear_telemetry();
    }
    let tsc_khz = tsc::khz(line.tsc_khz);
    let Some(Layout { owned, table }) = memory::divide(info, line.working_set_bytes) else {
        fail(format_args!("too little memory for the writers' table"))
    };
    let pages = owned.page_count();
    let filled = line.fill_bytes.map_or(pages, |bytes| (bytes / PAGE_SIZE as u64).min(pages));
    // SAFETY: once, and no other vCPU runs yet.
    let guest = unsafe {
        guest::set(Guest {
            line,
            tsc_khz,
            owned,
            working_set: PageRange { start: 0, end: table.len() as u64 },
            filled_pages: if line.fill == Fill::Zeros { 0 } else { filled },
            table: table.as_mut_ptr(),
            firmware,
        })
    };
    publish(guest, boot_tsc);
    uart::say(format_args!(
        "pulse: {} MiB {}, {} MiB working set, {} vCPU\r\n",
        pages >> 8,
        line.fill,
        guest.working_set.len() >> 8,
        line.vcpus
    ));
    apic::init(0);
    for vcpu in 1..line.vcpus as usize {
        if !apic::start_vcpu(vcpu, tsc_khz) {
            fail(format_args!("vCPU {vcpu} does not start: does the machine have {}?", line.vcpus));
        }
    }
    guest::telemetry().header.phase.store(Phase::Filling as u64, SeqCst);
    worker::run(0)
}

fn command_line(info: &StartInfo) -> CommandLine {
    if info.command_line == 0 {
        return CommandLine::default();
    }
    // SAFETY: the boot protocol promises a C string; it lies in mapped memory, and no more than the limit is read.
    let bytes = unsafe {
        let text = core::ptr::with_exposed_provenance::<u8>(info.command_line as usize);
        core::slice::from_raw_parts(text, COMMAND_LINE_BYTES)
    };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let Ok(text) = core::str::from_utf8(&bytes[..end]) else {
        fail(format_args!("the command line is not UTF-8"))
    };
    match CommandLine::parse_lenient(text) {
        Ok(line) => line,
        Err(error) => fail(format_args!("command line: {error}")),
    }
}

/// Firmware may have used these pages.
fn clear_telemetry() {
    let pages = (&raw const *guest::telemetry()).cast_mut();
    // SAFETY: the telemetry pages are atomics in RAM, and nothing has been written to them yet.
    unsafe { pages.write_bytes(0, 1) };
}

fn publish(guest: &Guest, boot_tsc: u64) {
    let header = &guest::telemetry().header;
    header.version.store(VERSION, Relaxed);
    header.phase.store(Phase::Booting as u64, Relaxed);
    header.vcpus.store(guest.line.vcpus, Relaxed);
    header.tsc_khz.store(guest.tsc_khz, Relaxed);
    header.boot_tsc.store(boot_tsc, Relaxed);
    header.owned_pages.store(guest.owned.page_count(), Relaxed);
    header.filled_pages.store(guest.filled_pages, Relaxed);
    header.working_set_pages.store(guest.working_set.len(), Relaxed);
    header.seed.store(guest.line.seed, Relaxed);
    header.fill.store(guest.line.fill as u64, Relaxed);
    // The magic makes the rest valid.
    header.magic.store(MAGIC, SeqCst);
}
