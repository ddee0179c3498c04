//! Memory of a simulated machine: a mapping of its own, as a real machine's is.

use std::{io, ptr};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::pages::{PAGE_SIZE, PageRun, RunBytes};

pub(super) struct SimMemory {
    start: *mut u8,
    page_count: u64,
}

// SAFETY: an address range that is valid until the drop; who may write when is the users' business,
// as it is with a real guest's memory.
unsafe impl Send for SimMemory {}
// SAFETY: as above.
unsafe impl Sync for SimMemory {}

impl SimMemory {
    pub fn new(page_count: u64) -> io::Result<SimMemory> {
        let len = PageRun::new(0, page_count).byte_len();
        // SAFETY: a new anonymous mapping touches nobody's memory.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Ok(SimMemory { start: start.cast(), page_count })
    }

    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    pub fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        assert!(
            run.checked_end().is_some_and(|end| end <= self.page_count),
            "{run:?} of {}",
            self.page_count
        );
        // SAFETY: within the mapping, which lives as long as self.
        unsafe { RunBytes::new(self.start.add(run.byte_offset()), run.byte_len()) }
    }

    /// Copies a page out.
    pub fn read(&self, page: u64, into: &mut [u8; PAGE_SIZE]) {
        // SAFETY: a whole page within the mapping; whoever writes it meanwhile holds the same lock.
        unsafe {
            self.bytes(PageRun::one(page)).as_ptr().copy_to_nonoverlapping(into.as_mut_ptr(), PAGE_SIZE);
        };
    }

    /// Copies whole pages in.
    pub fn write(&self, first: u64, bytes: &[u8]) {
        let run = PageRun::new(first, (bytes.len() / PAGE_SIZE) as u64);
        // SAFETY: whole pages within the mapping; nobody holds a reference to a guest's memory.
        unsafe { self.bytes(run).as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), run.byte_len()) };
    }

    /// Back to zeros.
    pub fn discard(&self, run: PageRun) -> io::Result<()> {
        let bytes = self.bytes(run);
        // SAFETY: the mapping is anonymous and private: its pages become zeros, as promised.
        Ok(unsafe { madvise(bytes.as_ptr().cast(), bytes.len(), Advice::LinuxDontNeed) }?)
    }

    /// Backs all of it, a bite at a time, as long as `go_on` says yes.
    pub fn populate_while(&self, go_on: impl Fn() -> bool) -> io::Result<()> {
        const BITE_PAGES: u64 = 64;
        for first in (0..self.page_count).step_by(BITE_PAGES as usize) {
            if !go_on() {
                break;
            }
            let bite = self.bytes(PageRun::new(first, BITE_PAGES.min(self.page_count - first)));
            // SAFETY: backing a page does not change what it holds.
            unsafe { madvise(bite.as_ptr().cast(), bite.len(), Advice::LinuxPopulateWrite) }?;
        }
        Ok(())
    }
}

impl Drop for SimMemory {
    fn drop(&mut self) {
        // SAFETY: nobody can hold a borrow of the mapping any more.
        unsafe { munmap(self.start.cast(), PageRun::new(0, self.page_count).byte_len()) }.ok();
    }
}
