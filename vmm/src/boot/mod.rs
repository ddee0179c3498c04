//! Booting: a kernel into memory, and a vCPU at its door.
//!
//! The file's contents decide, not its name:
//!
//! | file | entered by |
//! |---|---|
//! | bzImage (`vmlinuz`), as distributions ship it: unpacks itself | `linux`: Linux's 64-bit boot protocol |
//! | ELF with a PVH note (`vmlinux` with CONFIG_PVH, other kernels) | `pvh` |
//! | ELF without one, linked as Linux is (`vmlinux`) | `linux` |
//!
//! ```text
//! 0x0500  GDT
//! 0x6000  hvm_start_info, its module entry and memory map       (PVH)
//! 0x7000  boot_params, "the zero page"                          (Linux)
//! 0x8000  command line
//! 0x9000  page tables that map the first 4 GiB to themselves    (Linux)
//! 0xe0000 ACPI tables, see `acpi`
//! 0xffff0 what a jump to the firmware leads to, see `reset_vector`
//! 1 MiB   kernel …
//!         … initrd, at the end of low memory
//! ```

mod elf;
mod error;
mod format;
mod linux;
mod memory_map;
mod place;
mod pvh;
mod reset_vector;
mod segments;

use kvm_bindings::{kvm_regs, kvm_sregs};

use self::elf::ElfEntry;
use self::format::Format;
use self::place::Payload;
use crate::acpi;
use crate::memory::GuestMemory;

pub use self::error::BootError;

/// Most bytes of a kernel's command line, its closing zero included.
pub const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// Where the PC's hole for video memory and ROMs starts.
const ROM_HOLE_START: u64 = 0xa_0000;
/// Kernels live above.
const ONE_MIB: u64 = 0x10_0000;
const GDT: u64 = 0x500;
const COMMAND_LINE: u64 = 0x8000;

/// Where and how a loaded kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In protected mode without paging.
    Pvh(u64),
    /// In long mode.
    Linux(u64),
}

impl Entry {
    /// Sets the registers it is entered with.
    pub(crate) fn set_registers(self, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
        match self {
            Entry::Pvh(address) => pvh::set_registers(address, regs, sregs),
            Entry::Linux(address) => linux::set_registers(address, regs, sregs),
        }
    }
}

/// Puts kernel, command line, initrd, boot information and ACPI tables into memory.
pub(crate) fn load(
    memory: &GuestMemory,
    kernel: &[u8],
    command_line: &str,
    initrd: Option<&[u8]>,
    machine: &acpi::Machine,
) -> Result<Entry, BootError> {
    let virtio_devices = usize::from(machine.virtio_devices);
    let payload = Payload { command_line, initrd: initrd.unwrap_or_default(), virtio_devices };
    let entry = match format::of(kernel)? {
        Format::BzImage => linux::load_bzimage(memory, kernel, payload)?,
        Format::Elf => match elf::load(memory, kernel, payload)? {
            (ElfEntry::Pvh(address), placed) => pvh::write(memory, address, placed)?,
            (ElfEntry::Linux(address), placed) => linux::write(memory, address, placed)?,
        },
    };
    acpi::write(memory, machine)?;
    reset_vector::write(memory)?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Backing;

    proptest! {
        #[test]
        fn arbitrary_files_do_no_harm(
            mut kernel in proptest::collection::vec(any::<u8>(), 0x300..2000),
            format in 0..3,
            table in 0..200u64,
        ) {
            match format {
                0 => kernel[0x202..0x206].copy_from_slice(b"HdrS"),
                1 => {
                    kernel[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
                    kernel[18..20].copy_from_slice(&62u16.to_le_bytes());
                    kernel[32..40].copy_from_slice(&table.to_le_bytes());
                    kernel[54..58].copy_from_slice(&[56, 0, 4, 0]);
                }
                _ => {}
            }
            let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("16 MiB of memory");
            // Refused or not: neither a panic nor a byte of it beyond memory.
            let _ = load(&memory, &kernel, "quiet", None, &acpi::Machine { vcpus: 1, virtio_devices: 0 });
        }
    }
}
