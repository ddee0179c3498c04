//! The one host mapping that holds a guest's memory. The `unsafe` of memory lives here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::MapError;
use crate::config::{Backing, HUGE_PAGE_BYTES};

/// A shared, readable and writable mapping of guest memory, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// The file behind a shared mapping; `None` for anonymous memory.
    file: Option<File>,
}

// SAFETY: `Mapping` owns plain memory; its address may be used from any thread. What is done with the bytes is the
// business of who dereferences `base`.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; no method gives out a Rust reference to the bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of fresh, unpopulated memory, aligned to huge pages.
    pub(crate) fn new(bytes: u64, backing: Backing) -> Result<Mapping, MapError> {
        let length = usize::try_from(bytes).map_err(|_| MapError::TooLarge { bytes })?;
        let failed = |source: rustix::io::Errno| match backing {
            Backing::Hugetlbfs => MapError::MapHuge { bytes, source: source.into() },
            Backing::Anonymous | Backing::Memfd => MapError::Map { bytes, source: source.into() },
        };
        match backing {
            Backing::Anonymous => Self::anonymous(length).map_err(failed),
            Backing::Memfd => Self::of_memfd(length, MemfdFlags::CLOEXEC).map_err(failed),
            Backing::Hugetlbfs => {
                Self::of_memfd(length, MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
                    .map_err(failed)
            }
        }
    }

    fn anonymous(bytes: usize) -> rustix::io::Result<Mapping> {
        let align = HUGE_PAGE_BYTES as usize;
        let reserved = bytes + align;
        // SAFETY: a null hint lets the kernel choose an unused range; nothing existing is replaced.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let lead = start.align_offset(align);
        // Give back what lies before and after the aligned middle: a huge page needs an aligned home.
        // SAFETY: both ranges lie within the mapping made above, which nobody else knows yet.
        let base = unsafe {
            if lead > 0 {
                rustix::mm::munmap(start, lead)?;
            }
            let middle = start.byte_add(lead);
            let whole = bytes.next_multiple_of(4096);
            let tail = reserved - lead - whole;
            if tail > 0 {
                rustix::mm::munmap(middle.byte_add(whole), tail)?;
            }
            NonNull::new_unchecked(middle.cast())
        };
        let mapping = Mapping { base, bytes, file: None };
        // A host without transparent huge pages refuses with EINVAL; small pages do as well, slower.
        mapping
            .advise_range(0..bytes as u64, Advice::LinuxHugepage)
            .or_else(|error| if error == rustix::io::Errno::INVAL { Ok(()) } else { Err(error) })?;
        // The host's own children (none are made here, but a library might fork) must not share the guest's pages:
        // copy-on-write would move the parent's writes away from what KVM has mapped.
        mapping.advise_range(0..bytes as u64, Advice::LinuxDontFork)?;
        Ok(mapping)
    }

    fn of_memfd(bytes: usize, flags: MemfdFlags) -> rustix::io::Result<Mapping> {
        let file = File::from(rustix::fs::memfd_create("guest-memory", flags)?);
        rustix::fs::ftruncate(&file, bytes as u64)?;
        // SAFETY: a null hint lets the kernel choose an unused range; nothing existing is replaced.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )?
        };
        // SAFETY: mmap succeeded, so the address is not null.
        let base = unsafe { NonNull::new_unchecked(start.cast()) };
        Ok(Mapping { base, bytes, file: Some(file) })
    }

    /// Host address of the first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The file behind a shared mapping.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Backs `range` (bytes) with real pages, as if each had been written.
    pub(crate) fn populate(&self, range: Range<u64>) -> io::Result<()> {
        loop {
            match self.advise_range(range.clone(), Advice::LinuxPopulateWrite) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                other => return other.map_err(Into::into),
            }
        }
    }

    /// Gives `range` (bytes) back to the host: it reads as zeros, or is missing where missing pages are served.
    pub(crate) fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let advice = match self.file {
            None => Advice::LinuxDontNeed,
            // Dropping a shared mapping's page-table entries would leave the bytes in the file.
            Some(_) => Advice::LinuxRemove,
        };
        self.advise_range(range, advice).map_err(Into::into)
    }

    fn advise_range(&self, range: Range<u64>, advice: Advice) -> rustix::io::Result<()> {
        let (start, end) = (range.start as usize, range.end as usize);
        assert!(start <= end && end <= self.bytes, "advice for bytes {start}..{end} of {}", self.bytes);
        if start == end {
            return Ok(());
        }
        // SAFETY: the range lies within the mapping, checked above. Advice that discards bytes only changes what later
        // loads read; no Rust reference to guest bytes exists.
        unsafe { rustix::mm::madvise(self.base.as_ptr().add(start).cast(), end - start, advice) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and KVM holds its own reference to the pages it still uses.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes.next_multiple_of(4096)) };
        debug_assert!(unmapped.is_ok());
    }
}
