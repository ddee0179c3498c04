//! Kernels as ELF files.

use std::io::Cursor;
use std::ops::Range;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};

use super::place::{self, Demands, Payload, Placed};
use super::{BootError, ONE_MIB};
use crate::devices::virtio;
use crate::memory::GuestMemory;

/// Where Linux's text is mapped (Documentation/arch/x86/x86_64/mm.rst), and so where its segments are linked.
pub(super) const KERNEL_MAP_START: u64 = 0xffff_ffff_8000_0000;

/// Where an ELF kernel is entered, and by which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElfEntry {
    /// PVH's 32-bit entry point.
    Pvh(u64),
    /// Linux's 64-bit entry point.
    Linux(u64),
}

/// What the headers say.
struct Headers {
    entry: u64,
    /// Guest-physical.
    segments: Vec<Range<u64>>,
    is_linux: bool,
}

/// Puts an ELF kernel into memory, and what is handed to it.
pub(super) fn load(
    memory: &GuestMemory,
    kernel: &[u8],
    payload: Payload<'_>,
) -> Result<(ElfEntry, Placed), BootError> {
    let headers = read_headers(kernel)?;
    // Linux finds its devices by ACPI. One that is told of them on the command line, too, would take each for two.
    let told = if headers.is_linux { 0 } else { payload.virtio_devices };
    let command_line = payload.command_line.to_owned() + &virtio::command_line(told);
    let payload = Payload { command_line: &command_line, ..payload };
    let kernel_end = headers.segments.iter().map(|segment| segment.end).max().unwrap_or(0);
    let placed = place::check(memory, payload, Demands::of_kernel_end(kernel_end))?;
    let mut file = Cursor::new(kernel);
    let loaded = Elf::load(memory.regions(), None, &mut file, None).map_err(BootError::Load)?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => ElfEntry::Pvh(entry.0),
        // Linux's ELF entry point is a physical address, and the 64-bit one.
        _ if headers.is_linux && headers.segments.iter().any(|segment| segment.contains(&headers.entry)) => {
            ElfEntry::Linux(headers.entry)
        }
        _ => return Err(BootError::NoEntry),
    };
    place::write(memory, payload, placed)?;
    Ok((entry, placed))
}

/// The loader checks that segments lie in memory, but neither for which processor they are nor that they keep off the
/// boot information. Headers that are cut short are its to complain about.
fn read_headers(kernel: &[u8]) -> Result<Headers, BootError> {
    // System V ABI, figures 4-3 and 5-1: offsets within a 64-bit ELF header and a program header.
    const CLASS: usize = 4;
    const MACHINE: usize = 18;
    const ENTRY: usize = 24;
    const PHOFF: usize = 32;
    const PHENTSIZE: usize = 54;
    const PHNUM: usize = 56;
    const P_VADDR: usize = 16;
    const P_PADDR: usize = 24;
    const P_MEMSZ: usize = 40;
    const PT_LOAD: u64 = 1;
    const CLASS_64: u64 = 2;
    const MACHINE_X86_64: u64 = 62;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = kernel.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if let (Some(class), Some(machine)) = (number(CLASS, 1), number(MACHINE, 2))
        && (class, machine) != (CLASS_64, MACHINE_X86_64)
    {
        let what = match (class, machine) {
            (1, 3) => "32-bit x86".to_owned(),
            (CLASS_64, 183) => "64-bit Arm".to_owned(),
            (CLASS_64, 243) => "64-bit RISC-V".to_owned(),
            _ => format!("ELF class {class}, machine {machine}"),
        };
        return Err(BootError::OtherProcessor { what });
    }
    let mut headers = Headers { entry: number(ENTRY, 8).unwrap_or(0), segments: Vec::new(), is_linux: false };
    let table = || Some((number(PHOFF, 8)?, number(PHENTSIZE, 2)?, number(PHNUM, 2)?));
    let Some((offset, size, count)) = table() else {
        return Ok(headers);
    };
    for index in 0..count {
        let fields = || {
            let at = usize::try_from(offset.checked_add(index * size)?).ok()?;
            let field = |offset: usize, bytes| number(at.checked_add(offset)?, bytes);
            Some((field(0, 4)?, field(P_VADDR, 8)?, field(P_PADDR, 8)?, field(P_MEMSZ, 8)?))
        };
        if let Some((PT_LOAD, linked_at, address, bytes)) = fields()
            && bytes > 0
        {
            if address < ONE_MIB {
                return Err(BootError::SegmentTooLow { address });
            }
            headers.segments.push(address..address.saturating_add(bytes));
            headers.is_linux |= linked_at >= KERNEL_MAP_START;
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    const PAYLOAD: Payload<'_> = Payload { command_line: "quiet", initrd: &[], virtio_devices: 1 };

    /// An ELF header with one segment, of `bytes` at physical `address`, linked at `linked_at` and entered there.
    fn elf(linked_at: u64, address: u64, bytes: u64) -> Vec<u8> {
        let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
        file.extend([address, 64, 0].map(u64::to_le_bytes).concat());
        file.extend(0u32.to_le_bytes());
        file.extend([64u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
        file.extend([1u32, 7].map(u32::to_le_bytes).concat());
        file.extend([120, linked_at, address, 1, bytes, 4096].map(u64::to_le_bytes).concat());
        file.push(0xf4);
        file
    }

    fn loaded(kernel: &[u8]) -> Result<ElfEntry, BootError> {
        let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("16 MiB of memory");
        load(&memory, kernel, PAYLOAD).map(|(entry, _)| entry)
    }

    #[test]
    fn linux_is_entered_at_its_physical_entry_point() {
        let kernel = elf(KERNEL_MAP_START + 0x20_0000, 0x20_0000, 0x1000);
        assert_eq!(loaded(&kernel).expect("a kernel"), ElfEntry::Linux(0x20_0000));
    }

    #[test]
    fn linux_is_not_told_of_devices_twice() {
        let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("16 MiB of memory");
        let linux = elf(KERNEL_MAP_START + 0x20_0000, 0x20_0000, 0x1000);
        let (_, placed) = load(&memory, &linux, PAYLOAD).expect("a kernel");
        assert_eq!(placed.command_line_bytes, 5);
    }

    #[test]
    fn a_program_is_no_kernel() {
        assert!(matches!(loaded(&elf(0x40_0000, 0x40_0000, 0x1000)), Err(BootError::NoEntry)));
        let mut elsewhere = elf(KERNEL_MAP_START + 0x20_0000, 0x20_0000, 0x1000);
        elsewhere[24..32].copy_from_slice(&0x30_0000u64.to_le_bytes());
        assert!(matches!(loaded(&elsewhere), Err(BootError::NoEntry)), "entered outside of its segments");
    }

    #[test]
    fn kernels_for_others_or_for_more_memory_are_refused() {
        let kernel = elf(KERNEL_MAP_START, 0x20_0000, 0x1000);
        let mut other = kernel.clone();
        other[18] = 183;
        assert!(loaded(&other).expect_err("Arm").to_string().contains("is for 64-bit Arm"));
        other = kernel.clone();
        (other[4], other[18]) = (1, 3);
        assert!(loaded(&other).expect_err("32-bit").to_string().contains("is for 32-bit x86"));
        for bytes in [16 << 20, u64::MAX] {
            let refused = loaded(&elf(KERNEL_MAP_START, 0x20_0000, bytes));
            assert!(matches!(refused, Err(BootError::TooLarge { .. })), "{bytes:#x}");
        }
        let low = elf(KERNEL_MAP_START, 0x7000, 0x1000);
        assert!(matches!(loaded(&low), Err(BootError::SegmentTooLow { address: 0x7000 })));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let kernel = elf(KERNEL_MAP_START + 0x20_0000, 0x20_0000, 0x1000);
        for end in 4..kernel.len() {
            assert!(loaded(&kernel[..end]).is_err(), "cut after {end} bytes");
        }
    }
}
