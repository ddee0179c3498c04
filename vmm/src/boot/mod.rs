//! Booting: a kernel into memory, and a vCPU at its door.

mod pvh;

use thiserror::Error;

use crate::kvm::CallError;

pub(crate) use self::pvh::load;

/// Most bytes of a kernel's command line, its closing zero included.
pub const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// A kernel could not be booted. The machine is as new: another one may be tried.
#[derive(Debug, Error)]
pub enum BootError {
    /// The machine booted or was restored before.
    #[error("boot: the machine has a guest already")]
    NotNew,
    /// Not an ELF file.
    #[error(
        "the kernel is not an ELF file (it starts with {start:02x?}); a bzImage is not supported yet, use vmlinux"
    )]
    NotElf {
        /// The file's first bytes.
        start: Vec<u8>,
    },
    /// An ELF file that cannot be loaded.
    #[error("load the kernel's segments")]
    Load(#[source] linux_loader::loader::Error),
    /// An ELF file without the note that says where to enter.
    #[error("the kernel has no PVH entry point (ELF note `Xen` of type 18); Linux has it with CONFIG_PVH")]
    NoPvhEntry,
    /// A segment where the boot information goes, or in the hole for ROMs and video below 1 MiB.
    #[error("the kernel has a segment at {address:#x}, below 1 MiB")]
    SegmentTooLow {
        /// The segment's guest-physical address.
        address: u64,
    },
    /// Memory is too small.
    #[error("kernel and initrd need {needed} bytes of memory below 3 GiB, and the guest has {available}")]
    TooLarge {
        /// Bytes needed, from address 0 on.
        needed: u64,
        /// Bytes the guest has there.
        available: u64,
    },
    /// A command line that is too long.
    #[error("the command line has {bytes} bytes, more than the limit of {}", MAX_COMMAND_LINE_BYTES - 1)]
    CommandLineTooLong {
        /// Its length.
        bytes: usize,
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
    /// The first vCPU could not be set up.
    #[error("set up vCPU 0 to enter the kernel")]
    Vcpu(#[from] CallError),
}
