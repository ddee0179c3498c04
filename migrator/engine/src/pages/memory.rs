//! Guest memory as the engine sees it: bytes that somebody else may be writing.

use std::marker::PhantomData;

use super::{PAGE_SIZE, PageRun, PageSet};

/// A guest's RAM, shared by everyone who reads or writes its pages.
pub trait GuestPages: Send + Sync {
    /// How many pages it has.
    fn page_count(&self) -> u64;

    /// The bytes of a run.
    ///
    /// # Panics
    /// If the run is not within [`GuestPages::page_count`]: whoever takes a run from a peer checks
    /// it first.
    fn bytes(&self, run: PageRun) -> RunBytes<'_>;

    /// Pages that nobody ever wrote, so far as the host can tell cheaply. They hold zeros and need
    /// not be read to know it.
    fn absent(&self) -> PageSet;
}

/// The bytes of one run in guest memory.
///
/// While the guest runs they change under our eyes, so no `&[u8]` of them is made: the kernel
/// copies them to and from sockets by address, and the zero test reads word by word.
#[derive(Clone, Copy, Debug)]
pub struct RunBytes<'memory> {
    start: *mut u8,
    len: usize,
    memory: PhantomData<&'memory ()>,
}

// SAFETY: an address and a length; whoever made it promised that the memory stays mapped for
// 'memory and may be touched from any thread.
unsafe impl Send for RunBytes<'_> {}

impl<'memory> RunBytes<'memory> {
    /// # Safety
    /// `start .. start + len` is mapped, readable and writable, and stays so for `'memory`; `start`
    /// is page-aligned and `len` a multiple of the page size.
    pub unsafe fn new(start: *mut u8, len: usize) -> RunBytes<'memory> {
        debug_assert!((start as usize).is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE));
        RunBytes { start, len, memory: PhantomData }
    }

    /// A buffer as a run: where pages wait that cannot go to their place yet.
    ///
    /// # Panics
    /// If the buffer is not page-aligned or not whole pages.
    pub fn of_buffer(buffer: &'memory mut [u8]) -> RunBytes<'memory> {
        assert!(
            (buffer.as_ptr() as usize).is_multiple_of(PAGE_SIZE) && buffer.len().is_multiple_of(PAGE_SIZE)
        );
        RunBytes { start: buffer.as_mut_ptr(), len: buffer.len(), memory: PhantomData }
    }

    /// Where it starts, for the kernel to copy.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether its `index`-th page holds only zeros at this moment.
    pub fn is_zero_page(&self, index: u64) -> bool {
        const WORDS: usize = PAGE_SIZE / 8;
        let offset = index as usize * PAGE_SIZE;
        assert!(offset + PAGE_SIZE <= self.len);
        let words = self.start.wrapping_add(offset).cast::<u64>();
        // SAFETY: within the run, aligned as pages are; volatile because the guest may be writing.
        let word = |i: usize| unsafe { words.add(i).read_volatile() };
        // Nearly every page that is not zero shows it in one of three places.
        if word(0) | word(WORDS / 2) | word(WORDS - 1) != 0 {
            return false;
        }
        (0..WORDS).step_by(8).all(|i| {
            (word(i) | word(i + 1) | word(i + 2) | word(i + 3))
                | (word(i + 4) | word(i + 5) | word(i + 6) | word(i + 7))
                == 0
        })
    }

    /// The bytes themselves.
    ///
    /// # Safety
    /// Nobody writes them for `'memory`: the guest is paused, or not started yet, and no other
    /// thread receives into them.
    pub unsafe fn frozen(&self) -> &'memory [u8] {
        // SAFETY: mapped for 'memory by construction; the caller promised that nobody writes.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Fills it with zeros.
    pub fn fill_zero(&self) {
        // SAFETY: mapped and writable by construction. A guest that ran meanwhile would see zeros
        // appear, which is what its page is to hold.
        unsafe { self.start.write_bytes(0, self.len) };
    }

    /// A part of it, in pages.
    pub fn slice(&self, first: u64, count: u64) -> RunBytes<'memory> {
        let part = PageRun::new(first, count);
        assert!(part.byte_offset() + part.byte_len() <= self.len);
        // SAFETY: within a run that kept the promise.
        unsafe { RunBytes::new(self.start.add(part.byte_offset()), part.byte_len()) }
    }
}
