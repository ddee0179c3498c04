//! Guest memory: one contiguous host mapping, dense page numbers, and the record of who wrote what.
//!
//! - `layout` says where memory lies for the guest;
//! - [`GuestMemory`] is the memory itself;
//! - `bitmap` records what the VMM wrote, `dirty_log` joins that with KVM's log;
//! - `pieces` is scattered memory, as devices are given it;
//! - `resident` tells pages that were ever backed from those that are still nothing but zeros.
//!
//! Guest memory is shared with running vCPUs: no Rust reference to its bytes may exist. `as_ptr` is for those who copy by
//! raw pointer (kernel calls, `copy_nonoverlapping`), everyone else uses [`GuestMemory::read`] and [`GuestMemory::write`].

pub(crate) mod bitmap;
pub(crate) mod dirty_log;
pub(crate) mod layout;
mod mapping;
pub(crate) mod pieces;
mod resident;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap, GuestRegionMmap};

use self::bitmap::{AtomicPageBits, RegionBits};
pub(crate) use self::mapping::Mapping;
use crate::config::Backing;
use crate::missing::Userfault;

pub use self::dirty_log::DirtyLogError;
pub use self::layout::{HIGH_MEMORY_START, LOW_MEMORY_END, PAGE_BYTES};
pub use self::resident::ResidentError;

/// `vm-memory`'s view of the guest, for loaders and devices: every write through it marks the VMM's dirty bitmap.
pub(crate) type Regions = GuestMemoryMmap<RegionBits>;

/// Guest memory could not be mapped.
#[derive(Debug, Error)]
pub enum MapError {
    /// More bytes than an address holds.
    #[error("guest memory of {bytes} bytes does not fit this host's address space")]
    TooLarge {
        /// The memory asked for.
        bytes: u64,
    },
    /// The kernel refused.
    #[error("map {bytes} bytes of guest memory")]
    Map {
        /// The memory asked for.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused huge pages.
    #[error(
        "map {bytes} bytes of guest memory from reserved 2 MiB pages (are enough of them free? \
         see HugePages_Free in /proc/meminfo, and /proc/sys/vm/nr_hugepages to reserve more)"
    )]
    MapHuge {
        /// The memory asked for.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Pages could not be populated or discarded.
#[derive(Debug, Error)]
#[error("{operation} pages {}..{} of guest memory", pages.start, pages.end)]
pub struct AdviseError {
    /// What was asked: `populate` or `discard`.
    operation: &'static str,
    pages: Range<u64>,
    source: io::Error,
}

/// A read or write outside guest memory.
#[derive(Debug, Error)]
#[error("{operation} {bytes} bytes at guest-physical address {guest_address:#x}")]
pub struct AccessError {
    operation: &'static str,
    guest_address: u64,
    bytes: usize,
    source: GuestMemoryError,
}

/// All of a guest's memory. Pages are numbered densely: page index = offset / 4096, with no hole.
#[derive(Debug)]
pub struct GuestMemory {
    // Before `mapping`: the regions point into it.
    regions: Regions,
    mapping: Mapping,
    written: Arc<AtomicPageBits>,
    backing: Backing,
    /// Set while missing pages are served, so that a machine that goes away can free its vCPUs from waiting for ever.
    pub(crate) userfault: Mutex<Option<Arc<Userfault>>>,
    /// The machine ended while pages were missing: zeros that nobody wrote may stand in their place.
    is_abandoned: AtomicBool,
}

impl GuestMemory {
    /// Maps `memory_bytes` (a multiple of 4096), unpopulated.
    pub(crate) fn new(memory_bytes: u64, backing: Backing) -> Result<GuestMemory, MapError> {
        let mapping = Mapping::new(memory_bytes, backing)?;
        let written = Arc::new(AtomicPageBits::new(memory_bytes / PAGE_BYTES));
        let regions = layout::stretches(memory_bytes).map(|stretch| {
            let bits = RegionBits::new(Arc::clone(&written), stretch.offset);
            let builder = MmapRegionBuilder::new_with_bitmap(stretch.bytes as usize, bits)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE);
            // SAFETY: the stretch lies within `mapping`, which outlives the regions: both are fields of one struct, the
            // regions dropped first, and `Regions` is lent only by reference.
            let region =
                unsafe { builder.with_raw_mmap_pointer(mapping.as_ptr().add(stretch.offset as usize)) }
                    .build()
                    .expect("a raw pointer into a page-aligned mapping is page-aligned");
            GuestRegionMmap::new(region, GuestAddress(stretch.guest_address))
                .expect("stretches end far below the end of the address space")
        });
        let regions = Regions::from_regions(regions.collect()).expect("stretches are sorted and apart");
        let (userfault, is_abandoned) = (Mutex::new(None), AtomicBool::new(false));
        Ok(GuestMemory { regions, mapping, written, backing, userfault, is_abandoned })
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Number of pages.
    pub fn page_count(&self) -> u64 {
        self.size_bytes() / PAGE_BYTES
    }

    /// Number of `u64` words of a bitmap with one bit a page.
    pub fn bitmap_words(&self) -> usize {
        self.page_count().div_ceil(bitmap::PAGES_PER_WORD) as usize
    }

    /// Host address of page 0. The whole memory is one mapping of [`size_bytes`](Self::size_bytes), valid as long as
    /// `self`. Writes through it are not recorded as the VMM's: only use it to fill a guest that does not run yet.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    /// Offset (bytes) of a guest-physical address, or `None` where there is no memory.
    pub fn offset_of(&self, guest_address: u64) -> Option<u64> {
        layout::offset_of(self.size_bytes(), guest_address)
    }

    /// Reads bytes at a guest-physical address. The guest may be writing them: there is no promise of a consistent view.
    pub fn read(&self, guest_address: u64, into: &mut [u8]) -> Result<(), AccessError> {
        self.regions.read_slice(into, GuestAddress(guest_address)).map_err(|source| AccessError {
            operation: "read",
            guest_address,
            bytes: into.len(),
            source,
        })
    }

    /// Writes bytes at a guest-physical address, and records the pages as dirty.
    pub fn write(&self, guest_address: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.regions.write_slice(bytes, GuestAddress(guest_address)).map_err(|source| AccessError {
            operation: "write",
            guest_address,
            bytes: bytes.len(),
            source,
        })
    }

    /// Backs `pages` with real memory. Big ranges are split over the host's cores: the cost is zeroing.
    pub fn populate(&self, pages: Range<u64>) -> Result<(), AdviseError> {
        populate(&self.mapping, pages, &|| true)
    }

    /// As [`populate`](Self::populate), as long as `is_wanted` says yes: it is asked before every few megabytes.
    pub fn populate_while(
        &self,
        pages: Range<u64>,
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), AdviseError> {
        populate(&self.mapping, pages, is_wanted)
    }

    /// Whether missing pages are served: from [`MissingPages::open`](crate::MissingPages::open) until its close. Until
    /// then a page that is absent is not a page of zeros.
    pub fn has_missing_pages(&self) -> bool {
        self.userfault.lock().expect("nothing panics with this lock held").is_some()
    }

    /// The machine ends: a thread that waits for a missing page goes on, with zeros, of which nothing may leave the machine; see
    /// [`check_whole`](Self::check_whole).
    pub(crate) fn abandon_missing(&self) -> io::Result<()> {
        let mut served = self.userfault.lock().expect("nothing panics with this lock held");
        let Some(userfault) = served.as_ref() else { return Ok(()) };
        // Before the first of those zeros is there, and before serving seems to be over.
        self.is_abandoned.store(true, Ordering::SeqCst);
        let ended = userfault.end();
        served.take();
        ended
    }

    /// Fails if zeros may have been read for pages that never came. To be asked after reading, and before anything that was
    /// read leaves the machine.
    pub(crate) fn check_whole(&self) -> io::Result<()> {
        match self.is_abandoned.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the machine ended before all of its memory had come")),
            false => Ok(()),
        }
    }

    /// Gives `pages` back to the host. They read as zeros afterwards, or are missing where missing pages are served.
    pub fn discard(&self, pages: Range<u64>) -> Result<(), AdviseError> {
        self.mapping.discard(bytes_of(&pages)).map_err(|source| AdviseError {
            operation: "discard",
            pages,
            source,
        })
    }

    /// Gives `pages` that the guest has no use for back to the host, and records them as dirty: they read as zeros
    /// afterwards. Leaves them as they are, and says so by `false`, where that cannot be done: while missing pages are
    /// served, since whoever brings those believes that what is there stays, and on reserved huge pages.
    pub(crate) fn give_back(&self, pages: Range<u64>) -> Result<bool, AdviseError> {
        // Held meanwhile, so that serving does not begin in between.
        let served = self.userfault.lock().expect("nothing panics with this lock held");
        if served.is_some() || self.backing == Backing::Hugetlbfs {
            return Ok(false);
        }
        self.discard(pages.clone())?;
        let bytes = bytes_of(&pages);
        self.written.mark_bytes(bytes.start, bytes.end - bytes.start);
        Ok(true)
    }

    /// Sets the bit of every page that was ever backed; a page whose bit stays clear is all zeros and need not be read.
    /// Bits already set in `into` stay. Panics if `into` is shorter than [`bitmap_words`](Self::bitmap_words).
    pub fn resident(&self, into: &mut [u64]) -> Result<(), ResidentError> {
        resident::resident(&self.mapping, into)
    }

    pub(crate) fn regions(&self) -> &Regions {
        &self.regions
    }

    pub(crate) fn written(&self) -> &AtomicPageBits {
        &self.written
    }
}

/// As [`GuestMemory::resident`], of any mapping.
#[cfg(test)]
pub(crate) fn resident_of(mapping: &Mapping, into: &mut [u64]) -> Result<(), ResidentError> {
    resident::resident(mapping, into)
}

/// Backs `pages` of a mapping, on all of the host's cores, a bite at a time: whichever core is free takes the next.
pub(crate) fn populate(
    mapping: &Mapping,
    pages: Range<u64>,
    is_wanted: &(dyn Fn() -> bool + Sync),
) -> Result<(), AdviseError> {
    /// A thread costs half a millisecond to start; zeroing this much costs ten.
    const PAGES_PER_THREAD: u64 = (64 << 20) / PAGE_BYTES;
    /// Two huge pages, half a millisecond. Bites border on huge pages, or two threads would both fault the one between them.
    const BITE_PAGES: u64 = 2 * crate::config::HUGE_PAGE_BYTES / PAGE_BYTES;
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = (pages.end.saturating_sub(pages.start) / PAGES_PER_THREAD).clamp(1, cores);
    let next = AtomicU64::new(pages.start);
    let populate_some = || {
        loop {
            let start = next.fetch_add(BITE_PAGES, Ordering::Relaxed);
            if start >= pages.end || !is_wanted() {
                return Ok(());
            }
            let pages = start..pages.end.min(start + BITE_PAGES);
            let populated = mapping.populate(bytes_of(&pages));
            populated.map_err(|source| AdviseError { operation: "populate", pages, source })?;
            // A vCPU of another guest may wait for this core, and would until the host's next tick.
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(populate_some)).collect();
        let mine = populate_some();
        let joined = others.into_iter().map(|other| other.join().expect("populating does not panic"));
        joined.fold(mine, Result::and)
    })
}

fn bytes_of(pages: &Range<u64>) -> Range<u64> {
    pages.start * PAGE_BYTES..pages.end * PAGE_BYTES
}
