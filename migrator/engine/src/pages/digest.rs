//! A digest of all memory that does not mind the order pages come in.
//!
//! In post-copy the destination's guest writes to pages while others are still missing, so there is
//! no instant at which all of its memory could be read and compared. But each page is installed
//! once, and can be hashed then. So the digest is a *sum*: over all pages that are not zero, the
//! hash of the page mixed with its number. Sums can be made in any order, by several threads, and a
//! page that is replaced can be taken out again. (The hash is XXH3: this guards against mistakes
//! and broken hardware, not against a peer who forges pages, who could as well send what it likes.)

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::{GuestPages, PAGE_SIZE, PageNumber, PageRun};

/// The sum over a set of pages. Zero pages add nothing, wherever they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u64);

impl Digest {
    /// Adds pages that are not zero, `first` being the first one's number.
    pub fn add(&mut self, first: PageNumber, bytes: &[u8]) {
        self.0 = self.0.wrapping_add(sum(first, bytes, |_| false));
    }

    /// Adds pages of which some may be zero.
    pub fn add_any(&mut self, first: PageNumber, bytes: &[u8]) {
        self.0 = self.0.wrapping_add(sum(first, bytes, is_zero));
    }

    /// Takes pages out again that [`Digest::add_any`] would add.
    pub fn remove_any(&mut self, first: PageNumber, bytes: &[u8]) {
        self.0 = self.0.wrapping_sub(sum(first, bytes, is_zero));
    }

    /// Adds another part's sum.
    pub fn merge(&mut self, other: Digest) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// The digest of all of a guest's memory, made by as many threads as there are processors.
///
/// # Safety
/// Nobody writes to guest memory meanwhile.
pub unsafe fn digest_of(pages: &dyn GuestPages) -> Digest {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut present = super::PageSet::all(pages.page_count());
    pages.absent().runs().for_each(|run| present.remove_run(run));
    let share = pages.page_count().div_ceil(threads);
    let part = |first: u64| {
        let mut digest = Digest::default();
        let (mut from, end) = (first, (first + share).min(pages.page_count()));
        // Bites of 1 MiB stay in the cache between the zero test and the hash.
        while let Some(run) = present.next_run(from, 256).filter(|run| run.first < end) {
            let run = PageRun::new(run.first, run.count.min(end - run.first));
            // SAFETY: the caller promised that nobody writes.
            digest.add_any(run.first, unsafe { pages.bytes(run).frozen() });
            from = run.end();
        }
        digest
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || part(i * share))).collect();
        let mut digest = part(0);
        for other in others {
            digest.merge(other.join().expect("a digest thread does not panic"));
        }
        digest
    })
}

fn is_zero(page: &[u8]) -> bool {
    page[0] == 0 && page.iter().all(|&byte| byte == 0)
}

fn sum(first: PageNumber, bytes: &[u8], skip: impl Fn(&[u8]) -> bool) -> u64 {
    let mut sum = 0_u64;
    for (page, number) in bytes.chunks_exact(PAGE_SIZE).zip(first..) {
        let next = (number - first + 1) as usize * PAGE_SIZE;
        prefetch(&bytes[next..bytes.len().min(next + PAGE_SIZE)]);
        if !skip(page) {
            sum = sum.wrapping_add(term(number, page));
        }
    }
    sum
}

/// Has a page on its way into the cache while another is hashed: a processor's own prefetcher stops at the end of each.
#[cfg(target_arch = "x86_64")]
fn prefetch(page: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const LINE: usize = 64;
    for line in page.chunks(LINE) {
        // SAFETY: it is a hint, of an address that may be read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_page: &[u8]) {}

/// Two pages that changed places must not cancel out, so the number goes through a multiply too
/// (the finisher of SplitMix64).
fn term(number: PageNumber, page: &[u8]) -> u64 {
    let mut x = XxHash3_64::oneshot(page) ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: u8) -> Vec<u8> {
        vec![byte; PAGE_SIZE]
    }

    #[test]
    fn order_does_not_matter_but_place_and_content_do() {
        let (mut ab, mut ba, mut swapped) = (Digest::default(), Digest::default(), Digest::default());
        ab.add(1, &page(7));
        ab.add(2, &page(8));
        ba.add(2, &page(8));
        ba.add(1, &page(7));
        swapped.add(1, &page(8));
        swapped.add(2, &page(7));
        assert_eq!(ab, ba);
        assert_ne!(ab, swapped);
    }

    #[test]
    fn a_replaced_page_leaves_no_trace_and_zeros_add_nothing() {
        let mut once = Digest::default();
        once.add_any(5, &page(2));
        let mut replaced = Digest::default();
        replaced.add_any(5, &page(1));
        replaced.remove_any(5, &page(1));
        replaced.add_any(5, &page(2));
        replaced.add_any(9, &page(0));
        assert_eq!(once, replaced);
    }
}
