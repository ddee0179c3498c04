//! The PVH boot protocol (Xen, docs/misc/pvh.pandoc): the kernel is an ELF file with a note that names a 32-bit entry
//! point; it is entered in protected mode without paging, with EBX pointing at `hvm_start_info`.

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::place::Placed;
use super::{BootError, COMMAND_LINE, Entry, GDT, memory_map, segments};
use crate::acpi;
use crate::memory::{AccessError, GuestMemory};

const START_INFO: u64 = 0x6000;
const MODULE_ENTRY: u64 = 0x6080;
const MEMORY_MAP: u64 = 0x6100;

// xen/include/public/arch-x86/hvm/start_info.h
const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO_VERSION: u32 = 1;

const GLOBAL_DESCRIPTORS: [u64; 4] = [0, segments::CODE_32, segments::DATA, segments::TSS];

/// Writes the boot information of a kernel that lies in memory already.
pub(super) fn write(memory: &GuestMemory, entry: u64, placed: Placed) -> Result<Entry, BootError> {
    if placed.initrd_bytes > 0 {
        let module = [placed.initrd, placed.initrd_bytes, 0, 0];
        memory.write(MODULE_ENTRY, &module.map(u64::to_le_bytes).concat())?;
    }
    let entries = write_memory_map(memory)?;
    write_start_info(memory, placed.initrd_bytes > 0, entries)?;
    memory.write(GDT, &GLOBAL_DESCRIPTORS.map(u64::to_le_bytes).concat())?;
    Ok(Entry::Pvh(entry))
}

/// The registers a PVH kernel is entered with.
pub(super) fn set_registers(entry: u64, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
    *regs = kvm_regs { rip: entry, rbx: START_INFO, rflags: 2, ..kvm_regs::default() };
    segments::set(sregs, &GLOBAL_DESCRIPTORS, 1, 2, 3);
    // Protected mode, extension type: no paging, no long mode.
    sregs.cr0 = 0x11;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

/// Returns the number of entries.
fn write_memory_map(memory: &GuestMemory) -> Result<u32, AccessError> {
    let mut table = Vec::new();
    for entry in memory_map::entries(memory.size_bytes()) {
        // struct hvm_memmap_table_entry: addr, size, type, reserved.
        table.extend([entry.start, entry.bytes, u64::from(entry.kind as u32)].map(u64::to_le_bytes).concat());
    }
    memory.write(MEMORY_MAP, &table)?;
    Ok((table.len() / 24) as u32)
}

fn write_start_info(memory: &GuestMemory, has_initrd: bool, map_entries: u32) -> Result<(), AccessError> {
    let mut info = Vec::with_capacity(56);
    // struct hvm_start_info: magic, version, flags, nr_modules; modlist_paddr, cmdline_paddr, rsdp_paddr,
    // memmap_paddr; memmap_entries, reserved.
    for word in [START_INFO_MAGIC, START_INFO_VERSION, 0, u32::from(has_initrd)] {
        info.extend(word.to_le_bytes());
    }
    for word in [if has_initrd { MODULE_ENTRY } else { 0 }, COMMAND_LINE, acpi::RSDP, MEMORY_MAP] {
        info.extend(word.to_le_bytes());
    }
    for word in [map_entries, 0] {
        info.extend(word.to_le_bytes());
    }
    memory.write(START_INFO, &info)
}
