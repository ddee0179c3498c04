//! Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): the kernel is entered in long
//! mode with the first 4 GiB mapped to themselves, interrupts off, and RSI pointing at `boot_params`, "the zero page".

use std::io::Cursor;

use kvm_bindings::{kvm_regs, kvm_sregs};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use vm_memory::{ByteValued, GuestAddress};

use super::place::{self, Demands, Payload, Placed};
use super::{BootError, COMMAND_LINE, Entry, GDT, MAX_COMMAND_LINE_BYTES, ONE_MIB, memory_map, segments};
use crate::acpi;
use crate::memory::{AccessError, GuestMemory, PAGE_BYTES};

const ZERO_PAGE: u64 = 0x7000;
/// One page of the first level, one of the second, four of the third: each entry of those maps 2 MiB.
const PAGE_TABLES: u64 = 0x9000;
const MAPPED_GIB: u64 = 4;

/// The 64-bit entry point's distance from the start of a bzImage's kernel.
const ENTRY_64: u64 = 0x200;
/// Offset of `setup_header` in a bzImage and in `boot_params`.
const SETUP_HEADER: usize = 0x1f1;
/// First version with `xloadflags`, which says whether there is a 64-bit entry point.
const OLDEST_PROTOCOL: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
/// "Undefined" loader: those with a number of their own are listed in the protocol.
const LOADER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

/// Null, unused, then the two at the numbers that the protocol gives them; a TSS of two entries.
const GLOBAL_DESCRIPTORS: [u64; 6] = [0, 0, segments::CODE_64, segments::DATA, segments::TSS, 0];

/// Puts a bzImage into memory, and what is handed to it.
pub(super) fn load_bzimage(
    memory: &GuestMemory,
    kernel: &[u8],
    payload: Payload<'_>,
) -> Result<Entry, BootError> {
    let header = read_header(kernel)?;
    // It is loaded at 1 MiB and unpacks itself to where it would like to be.
    let image_end = ONE_MIB + kernel.len() as u64;
    let unpacked_end = header.pref_address.max(ONE_MIB).saturating_add(u64::from(header.init_size));
    let demands = Demands {
        kernel_end: image_end.max(unpacked_end),
        initrd_limit: u64::from(header.initrd_addr_max) + 1,
        command_line_limit: header.cmdline_size as usize,
    };
    let placed = place::check(memory, payload, demands)?;
    BzImage::load(memory.regions(), Some(GuestAddress(ONE_MIB)), &mut Cursor::new(kernel), None)
        .map_err(BootError::Load)?;
    place::write(memory, payload, placed)?;
    write_with(memory, header, placed)?;
    Ok(Entry::Linux(ONE_MIB + ENTRY_64))
}

/// Writes the boot information of a kernel that lies in memory already, and brought no setup header.
pub(super) fn write(memory: &GuestMemory, entry: u64, placed: Placed) -> Result<Entry, BootError> {
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: OLDEST_PROTOCOL,
        loadflags: 1,
        cmdline_size: MAX_COMMAND_LINE_BYTES as u32 - 1,
        kernel_alignment: 0x100_0000,
        ..setup_header::default()
    };
    write_with(memory, header, placed)?;
    Ok(Entry::Linux(entry))
}

/// The registers a kernel is entered with.
pub(super) fn set_registers(entry: u64, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
    *regs = kvm_regs { rip: entry, rsi: ZERO_PAGE, rflags: 2, ..kvm_regs::default() };
    segments::set(sregs, &GLOBAL_DESCRIPTORS, 2, 3, 4);
    // Protected mode, extension type, paging; physical address extension; long mode, enabled and active.
    sregs.cr0 = 0x8000_0011;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
}

/// Reads and checks a bzImage's setup header.
fn read_header(kernel: &[u8]) -> Result<setup_header, BootError> {
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let end = SETUP_HEADER + bytes.len();
    let Some(found) = kernel.get(SETUP_HEADER..end) else {
        return Err(BootError::CutShort { bytes: kernel.len() as u64, expected: end as u64 });
    };
    bytes.copy_from_slice(found);
    if header.version < OLDEST_PROTOCOL {
        return Err(BootError::OldProtocol { version: header.version });
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::OtherProcessor { what: "32-bit x86".to_owned() });
    }
    // Sectors of 512 bytes, the first one not counted and 0 meaning 4; then paragraphs of 16.
    let setup_sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let expected = (setup_sectors + 1) * 512 + u64::from(header.syssize) * 16;
    if expected > kernel.len() as u64 {
        return Err(BootError::CutShort { bytes: kernel.len() as u64, expected });
    }
    // Fields beyond the header's own end belong to what follows it: its length is in the jump that skips it.
    let length = usize::from(header.jump.to_le_bytes()[1]) + 0x202;
    header.as_mut_slice()[length.clamp(SETUP_HEADER, end) - SETUP_HEADER..].fill(0);
    Ok(header)
}

fn write_with(memory: &GuestMemory, header: setup_header, placed: Placed) -> Result<(), AccessError> {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: acpi::RSDP, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER;
    params.hdr.code32_start = ONE_MIB as u32;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    // The protocol has the size for loaders to check, not to change; an ELF file's is what there is.
    params.hdr.cmdline_size = params.hdr.cmdline_size.max(placed.command_line_bytes);
    // Both below 4 GiB: they lie in low memory.
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = (placed.initrd as u32, placed.initrd_bytes as u32);
    let mut table = params.e820_table;
    for (to, entry) in table.iter_mut().zip(memory_map::entries(memory.size_bytes())) {
        *to = boot_e820_entry { addr: entry.start, size: entry.bytes, r#type: entry.kind as u32 };
        params.e820_entries += 1;
    }
    params.e820_table = table;
    memory.write(ZERO_PAGE, params.as_slice())?;
    memory.write(GDT, &GLOBAL_DESCRIPTORS.map(u64::to_le_bytes).concat())?;
    memory.write(PAGE_TABLES, &page_tables())
}

/// Maps the first [`MAPPED_GIB`] to themselves (Intel SDM volume 3A, 4.5).
fn page_tables() -> Vec<u8> {
    const PRESENT_AND_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const ENTRIES: u64 = 512;
    let table = |number: u64| PAGE_TABLES + number * PAGE_BYTES;
    let first = (0..ENTRIES).map(|entry| if entry == 0 { table(1) | PRESENT_AND_WRITABLE } else { 0 });
    let second = (0..ENTRIES)
        .map(|entry| if entry < MAPPED_GIB { table(2 + entry) | PRESENT_AND_WRITABLE } else { 0 });
    let third = (0..ENTRIES * MAPPED_GIB).map(|entry| entry << 21 | LARGE | PRESENT_AND_WRITABLE);
    first.chain(second).chain(third).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    /// A bzImage with this header and 1 KiB of kernel, all bytes 0xf4.
    fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 1,
            syssize: 64,
            boot_flag: BOOT_FLAG,
            jump: 0x6aeb,
            header: HEADER_MAGIC,
            version: 0x20f,
            loadflags: 1,
            initrd_addr_max: 0x7fff_ffff,
            xloadflags: XLF_KERNEL_64,
            cmdline_size: 2047,
            pref_address: 16 << 20,
            init_size: 8 << 20,
            relocatable_kernel: 1,
            kernel_alignment: 2 << 20,
            ..setup_header::default()
        };
        change(&mut header);
        let mut file = vec![0; SETUP_HEADER];
        file.extend(header.as_slice());
        file.resize(1024, 0);
        file.resize(2048, 0xf4);
        file
    }

    fn memory(mebibytes: u64) -> GuestMemory {
        GuestMemory::new(mebibytes << 20, Backing::Anonymous).expect("memory")
    }

    fn number(memory: &GuestMemory, address: u64, bytes: usize) -> u64 {
        let mut field = [0; 8];
        memory.read(address, &mut field[..bytes]).expect("in memory");
        u64::from_le_bytes(field)
    }

    #[test]
    fn a_bzimage_finds_what_the_protocol_promises() {
        let memory = memory(64);
        let payload = Payload { command_line: "console=ttyS0", initrd: &[7; 100], virtio_devices: 2 };
        let entry = load_bzimage(&memory, &bzimage(|_| ()), payload).expect("a kernel");
        assert_eq!(entry, Entry::Linux(ONE_MIB + 0x200));
        assert_eq!(
            number(&memory, ONE_MIB, 8),
            0xf4f4_f4f4_f4f4_f4f4,
            "the kernel without its setup sectors"
        );
        // Offsets from the protocol's tables, not from the structures that were used to write.
        let at = |offset: u64, bytes| number(&memory, ZERO_PAGE + offset, bytes);
        assert_eq!(at(0x070, 8), acpi::RSDP);
        assert_eq!(at(0x1fe, 2), 0xaa55);
        assert_eq!(at(0x202, 4), u64::from(HEADER_MAGIC));
        assert_eq!(at(0x210, 1), 0xff, "type_of_loader");
        assert_eq!(at(0x218, 4), (64 << 20) - 4096, "ramdisk_image");
        assert_eq!(at(0x21c, 4), 100, "ramdisk_size");
        assert_eq!(at(0x228, 4), COMMAND_LINE);
        assert_eq!(number(&memory, (64 << 20) - 4096, 2), 0x0707);
        let mut line = [0; 14];
        memory.read(COMMAND_LINE, &mut line).expect("in memory");
        assert_eq!(&line, b"console=ttyS0\0");
        assert_eq!(at(0x1e8, 1), 3, "e820_entries");
        let entry =
            |index: u64| (at(0x2d0 + 20 * index, 8), at(0x2d8 + 20 * index, 8), at(0x2e0 + 20 * index, 4));
        assert_eq!(entry(0), (0, 0xa_0000, 1));
        assert_eq!(entry(1), (0xa_0000, 0x6_0000, 2));
        assert_eq!(entry(2), (ONE_MIB, 63 << 20, 1));
        assert_eq!(entry(3), (0, 0, 0));
        // The jump says that the header ends at 0x26c: what follows is not part of it.
        assert_eq!(at(0x26c, 8), 0);
    }

    #[test]
    fn the_page_tables_map_addresses_to_themselves() {
        let memory = memory(16);
        let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
        write(&memory, 0x20_0000, Placed::default()).expect("fits");
        set_registers(0x20_0000, &mut regs, &mut sregs);
        assert_eq!((regs.rip, regs.rsi, regs.rflags & 1 << 9), (0x20_0000, ZERO_PAGE, 0));
        assert_eq!((sregs.cs.selector, sregs.ds.selector, sregs.ss.selector), (0x10, 0x18, 0x18));
        for address in [0u64, 0x20_0000, 0x1234_5678, (4 << 30) - 1] {
            let mut table = sregs.cr3;
            for shift in [39, 30] {
                let entry = number(&memory, table + (address >> shift & 511) * 8, 8);
                assert_eq!(entry & 3, 3, "{address:#x}");
                table = entry & !0xfff;
            }
            let entry = number(&memory, table + (address >> 21 & 511) * 8, 8);
            assert_eq!(entry & 0x83, 0x83);
            assert_eq!(entry & !0x1f_ffff | address & 0x1f_ffff, address);
        }
        assert_eq!(number(&memory, sregs.cr3 + 8, 8), 0, "nothing beyond");
        assert_eq!(number(&memory, PAGE_TABLES + PAGE_BYTES + 8 * MAPPED_GIB, 8), 0, "nothing beyond");
    }

    #[test]
    fn kernels_that_cannot_run_are_refused_in_words() {
        let none = Payload { command_line: "", initrd: &[], virtio_devices: 0 };
        let refused = |mebibytes, file: &[u8], payload| {
            load_bzimage(&memory(mebibytes), file, payload).expect_err("refused").to_string()
        };
        assert!(refused(64, &bzimage(|header| header.version = 0x207), none).contains("boot protocol 2.07"));
        assert!(refused(64, &bzimage(|header| header.xloadflags = 0), none).contains("for 32-bit x86"));
        let whole = bzimage(|_| ());
        for end in [0x206, 0x210, 0x26b, 1024, 2047] {
            assert!(refused(64, &whole[..end], none).contains("cut short"), "cut after {end} bytes");
        }
        assert!(refused(64, &bzimage(|header| header.syssize = u32::MAX), none).contains("cut short"));
        // 16 MiB and the 8 it unpacks itself into.
        assert!(refused(23, &whole, none).contains("kernel (25165824 bytes from address 0 on, unpacked)"));
        assert!(load_bzimage(&memory(24), &whole, none).is_ok());
        let initrd = vec![1; 8193];
        let with_initrd = Payload { initrd: &initrd, ..none };
        assert!(refused(24, &whole, with_initrd).contains("initrd (12288 bytes) do not fit"));
        let greedy = bzimage(|header| (header.pref_address, header.init_size) = (u64::MAX, 1));
        assert!(refused(64, &greedy, none).contains("do not fit"));
        let line = "x".repeat(2048);
        let with_line = Payload { command_line: &line, ..none };
        assert!(
            refused(64, &whole, with_line).contains("has 2048 bytes, and this kernel takes 2047 at most")
        );
    }
}
