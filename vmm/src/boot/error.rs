//! Why a kernel was not booted.

use thiserror::Error;

use crate::kvm::CallError;

/// A kernel could not be booted. The machine is as new: another one may be tried.
#[derive(Debug, Error)]
pub enum BootError {
    /// The machine booted or was restored before.
    #[error("boot: the machine has a guest already")]
    NotNew,
    /// Nothing that could be a kernel.
    #[error(
        "the kernel is neither a bzImage (vmlinuz) nor an ELF file (vmlinux): it {}",
        if start.is_empty() { "is empty".to_owned() } else { format!("starts with {start:02x?}") }
    )]
    NotAKernel {
        /// The file's first bytes.
        start: Vec<u8>,
    },
    /// A file that was compressed as a whole. A bzImage, which carries its own unpacker, is not one.
    #[error("the kernel is a file compressed with {format}: unpack it first, with `{command}`")]
    Compressed {
        /// The compression's name.
        format: &'static str,
        /// A command that unpacks it to standard output.
        command: &'static str,
    },
    /// A kernel for another processor, or for this one's 32-bit mode.
    #[error("the kernel is for {what}, and this machine runs 64-bit x86 kernels")]
    OtherProcessor {
        /// What it is for.
        what: String,
    },
    /// A bzImage from before the 64-bit entry point was described.
    #[error(
        "the kernel speaks boot protocol {}.{:02}, and 2.12 (Linux 3.8) is the oldest one known here",
        version >> 8,
        version & 0xff
    )]
    OldProtocol {
        /// Major version in the high byte, minor in the low one.
        version: u16,
    },
    /// The file ends before the kernel does.
    #[error("the kernel is cut short: the file has {bytes} bytes, and its header speaks of {expected}")]
    CutShort {
        /// Bytes in the file.
        bytes: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A kernel file that cannot be loaded.
    #[error("load the kernel")]
    Load(#[source] linux_loader::loader::Error),
    /// An ELF file that is no kernel.
    #[error(
        "the ELF file is no kernel: it has neither a PVH entry point (note `Xen` of type 18; Linux has it with \
         CONFIG_PVH) nor Linux's segments at {:#x} and above",
        super::elf::KERNEL_MAP_START
    )]
    NoEntry,
    /// A segment where the boot information goes, or in the hole for ROMs and video below 1 MiB.
    #[error("the kernel has a segment at {address:#x}, below 1 MiB")]
    SegmentTooLow {
        /// The segment's guest-physical address.
        address: u64,
    },
    /// Memory is too small.
    #[error(
        "kernel ({kernel} bytes from address 0 on, unpacked) and initrd ({initrd} bytes) do not fit into the \
         {available} bytes of memory that they may use: give the guest more memory, or a smaller initrd"
    )]
    TooLarge {
        /// Bytes up to the kernel's end.
        kernel: u64,
        /// Bytes of the initrd, in whole pages.
        initrd: u64,
        /// Bytes of memory below 3 GiB, or below what the kernel reaches of it.
        available: u64,
    },
    /// A command line that is too long.
    #[error("the command line has {bytes} bytes, and this kernel takes {limit} at most")]
    CommandLineTooLong {
        /// Its length.
        bytes: usize,
        /// The limit, the kernel's own if that is lower than [`MAX_COMMAND_LINE_BYTES`](super::MAX_COMMAND_LINE_BYTES).
        limit: usize,
    },
    /// A zero byte in the command line would end it early.
    #[error("the command line has a zero byte at {at}")]
    CommandLineHasZero {
        /// Its place.
        at: usize,
    },
    /// Boot information could not be written.
    #[error("write boot information")]
    Write(#[from] crate::memory::AccessError),
    /// A disk could not be taken.
    #[error("take the guest's disks")]
    Disk(#[from] crate::devices::virtio::block::DiskError),
    /// The first vCPU could not be set up.
    #[error("set up vCPU 0 to enter the kernel")]
    Vcpu(#[from] CallError),
}
