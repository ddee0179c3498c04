//! Tiny guests as ELF files.

/// Where a tiny guest's code lies and is entered, in 32-bit protected mode without paging.
const CODE_AT: u32 = 0x10_0000;

/// An ELF file with `code` at [`CODE_AT`], and the PVH note that names it as the entry.
pub fn elf(code: &[u8]) -> Vec<u8> {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const NOTE_BYTES: u64 = 12 + 4 + 8;
    const CODE_OFFSET: u64 = 0x1000;
    let mut file = Vec::new();
    // ELF header: 64-bit, little-endian, executable, x86-64.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([u64::from(CODE_AT), 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 64, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let mut header = |kind: u32, offset: u64, address: u64, bytes: u64| {
        file.extend([kind, 7].iter().flat_map(|word| word.to_le_bytes()));
        let words = [offset, address, address, bytes, bytes, 4];
        file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    header(1, CODE_OFFSET, u64::from(CODE_AT), code.len() as u64);
    header(4, NOTE_AT, 0, NOTE_BYTES);
    // The note: sizes of name and descriptor, type 18 (XEN_ELFNOTE_PHYS32_ENTRY), "Xen", the entry.
    file.extend([4u32, 8, 18].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(b"Xen\0");
    file.extend(u64::from(CODE_AT).to_le_bytes());
    file.resize(CODE_OFFSET as usize, 0);
    file.extend(code);
    file
}
