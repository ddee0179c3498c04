//! What kind of file a kernel is, told by its contents.

use super::BootError;

/// A kind of kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    BzImage,
    Elf,
}

/// Where a bzImage has the word `HdrS` (Documentation/arch/x86/boot.rst, "header").
const HEADER_MAGIC: usize = 0x202;

/// Compressed files by their first bytes, and what unpacks them. Kernels are unpacked by whoever gives them: what comes
/// out may be of any size.
const COMPRESSED: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4 -dc"),
    (b"\x5d\0\0", "lzma", "xz --format=lzma -dc"),
];

/// The kind of `kernel`.
pub(super) fn of(kernel: &[u8]) -> Result<Format, BootError> {
    if kernel.starts_with(b"\x7fELF") {
        return Ok(Format::Elf);
    }
    // Before compression: what starts a bzImage is a boot sector, or an EFI program, and may be anything.
    if kernel.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS") {
        return Ok(Format::BzImage);
    }
    if let Some((_, format, command)) = COMPRESSED.into_iter().find(|(magic, ..)| kernel.starts_with(magic)) {
        return Err(BootError::Compressed { format, command });
    }
    // Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
    if kernel.get(56..60) == Some(b"ARM\x64") {
        return Err(BootError::OtherProcessor { what: "64-bit Arm".to_owned() });
    }
    Err(BootError::NotAKernel { start: kernel.iter().take(4).copied().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_its_contents() {
        assert!(matches!(of(b"\x7fELF\x02"), Ok(Format::Elf)));
        let mut image = vec![0; 0x300];
        image[..2].copy_from_slice(b"MZ");
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        assert!(matches!(of(&image), Ok(Format::BzImage)));
        image.truncate(HEADER_MAGIC + 3);
        assert!(matches!(of(&image), Err(BootError::NotAKernel { .. })));
    }

    #[test]
    fn what_is_no_kernel_is_refused_in_words() {
        let refused = |bytes: &[u8]| of(bytes).expect_err("no kernel").to_string();
        assert!(refused(b"").ends_with("it is empty"));
        assert!(refused(b"#!/bin/sh").contains("starts with [23, 21, 2f, 62]"));
        assert!(
            refused(b"\x1f\x8b\x08\0").contains("compressed with gzip: unpack it first, with `gzip -dc`")
        );
        assert!(refused(b"\xfd7zXZ\0\0").contains("`xz -dc`"));
        assert!(refused(b"\x28\xb5\x2f\xfd\0").contains("`zstd -dc`"));
        let mut arm = vec![0; 64];
        arm[56..60].copy_from_slice(b"ARM\x64");
        assert!(refused(&arm).contains("for 64-bit Arm"));
    }
}
