//! The image's own part of the oracle: code, constants, page and descriptor tables do not change once all vCPUs run.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use telemetry::PAGE_SIZE;
use telemetry::oracle::{Mismatch, MismatchKind, Stamp};

unsafe extern "C" {
    static image_start: [u8; 0];
    static text_end: [u8; 0];
}

static SEALED: AtomicU64 = AtomicU64::new(0);

/// A check of the image under way, a page at a time.
pub struct Checker {
    page: usize,
    hash: u64,
}

/// What one step of it found.
pub enum Step {
    /// There is more.
    Going(Checker),
    /// All as it was.
    Right,
    /// Changed.
    Wrong(Mismatch),
}

impl Checker {
    /// A check from the image's first page.
    pub fn new() -> Self {
        Self { page: (&raw const image_start).addr() / PAGE_SIZE, hash: 0 }
    }

    fn add_page(&mut self) {
        let address = core::ptr::with_exposed_provenance::<u64>(self.page * PAGE_SIZE);
        for i in 0..PAGE_SIZE / 8 {
            // SAFETY: within the image; volatile, since the processor may write descriptor tables behind the compiler.
            let word = unsafe { address.add(i).read_volatile() };
            self.hash = (self.hash.rotate_left(9) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.page += 1;
    }

    fn is_done(&self) -> bool {
        self.page >= (&raw const text_end).addr() / PAGE_SIZE
    }

    /// Hashes the next page, or compares.
    pub fn step(mut self) -> Step {
        if !self.is_done() {
            self.add_page();
            return Step::Going(self);
        }
        let sealed = SEALED.load(Relaxed);
        if self.hash == sealed {
            return Step::Right;
        }
        let stamp = |hash| Stamp { hash, ..Stamp::ZERO };
        Step::Wrong(Mismatch {
            kind: MismatchKind::Image,
            page: ((&raw const image_start).addr() / PAGE_SIZE) as u64,
            expected: stamp(sealed),
            found: stamp(self.hash),
            offset: 0,
        })
    }
}

/// Takes the image as it is for right. After all vCPUs have loaded their descriptors.
pub fn seal() {
    let mut checker = Checker::new();
    while !checker.is_done() {
        checker.add_page();
    }
    SEALED.store(checker.hash, Relaxed);
}
