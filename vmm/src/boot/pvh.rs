//! The PVH boot protocol (Xen, docs/misc/pvh.pandoc): the kernel is an ELF file with a note that names a 32-bit entry
//! point; it is entered in protected mode without paging, with EBX pointing at `hvm_start_info`.
//!
//! ```text
//! 0x0500  GDT (null, code, data, TSS)
//! 0x6000  hvm_start_info
//! 0x6080  the initrd's module entry
//! 0x7000  memory map
//! 0x8000  command line
//! 1 MiB   the kernel's segments …
//!         … initrd, at the end of low memory
//! ```

use std::io::Cursor;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};

use super::{BootError, MAX_COMMAND_LINE_BYTES};
use crate::memory::{AccessError, GuestMemory, HIGH_MEMORY_START, LOW_MEMORY_END, PAGE_BYTES};

const GDT: u64 = 0x500;
const START_INFO: u64 = 0x6000;
const MODULE_ENTRY: u64 = 0x6080;
const MEMORY_MAP: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x8000;
/// Where the PC's hole for video memory and ROMs starts.
const ROM_HOLE_START: u64 = 0xa_0000;
/// Kernels live above.
const ONE_MIB: u64 = 0x10_0000;

// xen/include/public/arch-x86/hvm/start_info.h
const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO_VERSION: u32 = 1;
const MEMORY_MAP_RAM: u32 = 1;
const MEMORY_MAP_RESERVED: u32 = 2;

/// Where a loaded kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    address: u64,
}

/// Puts kernel, command line, initrd and boot information into memory.
pub(crate) fn load(
    memory: &GuestMemory,
    kernel: &[u8],
    command_line: &str,
    initrd: Option<&[u8]>,
) -> Result<Entry, BootError> {
    check_command_line(command_line.as_bytes())?;
    check_segments(kernel)?;
    let mut file = Cursor::new(kernel);
    let loaded = Elf::load(memory.regions(), None, &mut file, None).map_err(BootError::Load)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };
    let available = memory.size_bytes().min(LOW_MEMORY_END);
    let initrd = initrd.filter(|bytes| !bytes.is_empty());
    let initrd_bytes = initrd.map_or(0, <[u8]>::len) as u64;
    let needed = loaded
        .kernel_end
        .next_multiple_of(PAGE_BYTES)
        .saturating_add(initrd_bytes.next_multiple_of(PAGE_BYTES));
    if needed > available {
        return Err(BootError::TooLarge { needed, available });
    }
    let initrd_at = available - initrd_bytes.next_multiple_of(PAGE_BYTES);
    if let Some(bytes) = initrd {
        memory.write(initrd_at, bytes)?;
        memory.write(MODULE_ENTRY, &[initrd_at, initrd_bytes, 0, 0].map(u64::to_le_bytes).concat())?;
    }
    memory.write(COMMAND_LINE, command_line.as_bytes())?;
    memory.write(COMMAND_LINE + command_line.len() as u64, &[0])?;
    let entries = write_memory_map(memory)?;
    write_start_info(memory, initrd.is_some(), entries)?;
    memory.write(GDT, &gdt().map(u64::to_le_bytes).concat())?;
    Ok(Entry { address: entry.0 })
}

impl Entry {
    /// The registers a PVH kernel is entered with.
    pub(crate) fn set_registers(self, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
        *regs = kvm_regs { rip: self.address, rbx: START_INFO, rflags: 2, ..kvm_regs::default() };
        let [_, code, data, tss] = gdt();
        sregs.cs = segment(code, 1);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) =
            (segment(data, 2), segment(data, 2), segment(data, 2), segment(data, 2), segment(data, 2));
        sregs.tr = segment(tss, 3);
        (sregs.gdt.base, sregs.gdt.limit) = (GDT, 4 * 8 - 1);
        (sregs.idt.base, sregs.idt.limit) = (0, 0);
        // Protected mode, extension type: no paging, no long mode.
        sregs.cr0 = 0x11;
        sregs.cr4 = 0;
        sregs.efer = 0;
    }
}

/// Null, flat 32-bit code, flat data, a TSS with nothing in it.
fn gdt() -> [u64; 4] {
    [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067]
}

/// A segment register that holds GDT entry `index`, whose descriptor is `entry` (Intel SDM volume 3A, 3.4.5).
fn segment(entry: u64, index: u16) -> kvm_segment {
    let granular = entry >> 55 & 1 == 1;
    let limit = (entry & 0xffff | entry >> 32 & 0xf_0000) as u32;
    kvm_segment {
        base: entry >> 16 & 0xff_ffff | entry >> 32 & 0xff00_0000,
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector: index * 8,
        type_: (entry >> 40 & 0xf) as u8,
        s: (entry >> 44 & 1) as u8,
        dpl: (entry >> 45 & 3) as u8,
        present: (entry >> 47 & 1) as u8,
        avl: (entry >> 52 & 1) as u8,
        l: (entry >> 53 & 1) as u8,
        db: (entry >> 54 & 1) as u8,
        g: u8::from(granular),
        ..kvm_segment::default()
    }
}

fn check_command_line(command_line: &[u8]) -> Result<(), BootError> {
    if command_line.len() >= MAX_COMMAND_LINE_BYTES {
        return Err(BootError::CommandLineTooLong { bytes: command_line.len() });
    }
    match command_line.iter().position(|byte| *byte == 0) {
        Some(at) => Err(BootError::CommandLineHasZero { at }),
        None => Ok(()),
    }
}

/// The loader checks that segments lie in memory, but not that they keep off the boot information.
fn check_segments(kernel: &[u8]) -> Result<(), BootError> {
    // System V ABI, figures 4-3 and 5-1: offsets within a 64-bit ELF header and a program header.
    const PHOFF: usize = 32;
    const PHENTSIZE: usize = 54;
    const PHNUM: usize = 56;
    const P_PADDR: usize = 24;
    const P_MEMSZ: usize = 40;
    const PT_LOAD: u64 = 1;
    if !kernel.starts_with(b"\x7fELF") {
        return Err(BootError::NotElf { start: kernel.iter().take(4).copied().collect() });
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = kernel.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    // A header cut short is the loader's to complain about.
    let headers = || Some((number(PHOFF, 8)?, number(PHENTSIZE, 2)?, number(PHNUM, 2)?));
    let Some((offset, size, count)) = headers() else {
        return Ok(());
    };
    for index in 0..count {
        let header = || usize::try_from(offset.checked_add(index * size)?).ok();
        let fields = || {
            let at = header()?;
            Some((number(at, 4)?, number(at.checked_add(P_PADDR)?, 8)?, number(at.checked_add(P_MEMSZ)?, 8)?))
        };
        if let Some((PT_LOAD, address, bytes)) = fields()
            && bytes > 0
            && address < ONE_MIB
        {
            return Err(BootError::SegmentTooLow { address });
        }
    }
    Ok(())
}

/// Returns the number of entries.
fn write_memory_map(memory: &GuestMemory) -> Result<u32, AccessError> {
    let low = memory.size_bytes().min(LOW_MEMORY_END);
    let high = memory.size_bytes() - low;
    let map = [
        (0, ROM_HOLE_START, MEMORY_MAP_RAM),
        (ROM_HOLE_START, ONE_MIB - ROM_HOLE_START, MEMORY_MAP_RESERVED),
        (ONE_MIB, low - ONE_MIB, MEMORY_MAP_RAM),
        (HIGH_MEMORY_START, high, MEMORY_MAP_RAM),
    ];
    let mut at = MEMORY_MAP;
    let mut entries = 0;
    for (start, bytes, kind) in map.into_iter().filter(|(_, bytes, _)| *bytes > 0) {
        // struct hvm_memmap_table_entry: addr, size, type, reserved.
        memory.write(at, &[start, bytes, u64::from(kind)].map(u64::to_le_bytes).concat())?;
        at += 24;
        entries += 1;
    }
    Ok(entries)
}

fn write_start_info(memory: &GuestMemory, has_initrd: bool, map_entries: u32) -> Result<(), AccessError> {
    let mut info = Vec::with_capacity(56);
    // struct hvm_start_info: magic, version, flags, nr_modules; modlist_paddr, cmdline_paddr, rsdp_paddr,
    // memmap_paddr; memmap_entries, reserved.
    for word in [START_INFO_MAGIC, START_INFO_VERSION, 0, u32::from(has_initrd)] {
        info.extend(word.to_le_bytes());
    }
    for word in [if has_initrd { MODULE_ENTRY } else { 0 }, COMMAND_LINE, 0, MEMORY_MAP] {
        info.extend(word.to_le_bytes());
    }
    for word in [map_entries, 0] {
        info.extend(word.to_le_bytes());
    }
    memory.write(START_INFO, &info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    fn memory() -> GuestMemory {
        GuestMemory::new(16 << 20, Backing::Anonymous).expect("16 MiB of memory")
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_words() {
        let memory = memory();
        let refused =
            |kernel: &[u8], line: &str| load(&memory, kernel, line, None).expect_err("no kernel").to_string();
        assert!(refused(b"MZ..", "").contains("not an ELF file"));
        assert!(refused(b"", "").contains("not an ELF file"));
        assert!(refused(b"\x7fELF", "").contains("load the kernel's segments"));
        assert!(
            refused(b"\x7fELF", &"x".repeat(MAX_COMMAND_LINE_BYTES)).contains("more than the limit of 4095")
        );
        assert!(refused(b"\x7fELF", "a\0b").contains("zero byte at 1"));
    }

    #[test]
    fn segments_are_flat() {
        let code = segment(gdt()[1], 1);
        assert_eq!((code.base, code.limit, code.type_, code.db, code.s), (0, u32::MAX, 0xb, 1, 1));
        let tss = segment(gdt()[3], 3);
        assert_eq!((tss.base, tss.limit, tss.type_, tss.s), (0, 0x67, 0xb, 0));
    }
}
