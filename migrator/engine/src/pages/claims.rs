//! Which pages still belong to nobody: the push and the page requests of post-copy share one
//! guest's pages, and each page is to be sent by one of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    PageNumber, PageRun, PageSet,
    set::{mask, next_run},
};

const WORD_BITS: u64 = u64::BITS as u64;

/// Pages not yet sent by anyone; taking one is a single atomic step.
///
/// Relaxed order is enough: the pages themselves stand still while they are claimed, so a claim
/// orders nothing but itself.
#[derive(Debug)]
pub struct Claims {
    words: Vec<AtomicU64>,
    page_count: u64,
}

impl Claims {
    /// Every page of `set`, unclaimed.
    pub fn new(set: &PageSet) -> Claims {
        let words = set.words().iter().map(|&word| AtomicU64::new(word)).collect();
        Claims { words, page_count: set.page_count() }
    }

    /// As made anew from `set`, of the same guest, in the memory that is there.
    pub fn begin_again(&mut self, set: &PageSet) {
        assert_eq!(self.page_count, set.page_count(), "sets of two guests");
        for (mine, &word) in self.words.iter_mut().zip(set.words()) {
            *mine.get_mut() = word;
        }
    }

    /// Claims the first run at `from` or later, no further than the end of its word of 64. `None` if
    /// nothing is left from there to the end.
    pub fn claim_next(&self, from: PageNumber) -> Option<PageRun> {
        (from < self.page_count)
            .then(|| self.claim_within(PageRun::new(from, self.page_count - from)))
            .flatten()
    }

    /// Claims the first unclaimed part of `run`, no further than the end of its word of 64.
    pub fn claim_within(&self, run: PageRun) -> Option<PageRun> {
        let end = run.first.saturating_add(run.count).min(self.page_count);
        let mut page = run.first;
        while page < end {
            let word_end = (page / WORD_BITS + 1) * WORD_BITS;
            if let Some(part) = self.claim_in_word(page, end.min(word_end)) {
                return Some(part);
            }
            page = word_end;
        }
        None
    }

    /// Claims unclaimed pages from `page` itself on, up to `end` or the end of its word of 64. Returns how
    /// many; `None` if `page` is not free.
    pub fn claim_first(&self, page: PageNumber, end: PageNumber) -> Option<u64> {
        let end = end.min(self.page_count).min((page / WORD_BITS + 1) * WORD_BITS);
        if page >= end {
            return None;
        }
        let word = self.word(page);
        let wanted = mask(page % WORD_BITS, end - page);
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let count = u64::from(((seen & wanted) >> (page % WORD_BITS)).trailing_ones());
            if count == 0 {
                return None;
            }
            let mine = mask(page % WORD_BITS, count);
            match word.compare_exchange_weak(seen, seen & !mine, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(count),
                Err(now) => seen = now,
            }
        }
    }

    /// How many pages nobody has claimed.
    pub fn remaining(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }

    /// The pages that nobody has claimed, as of now.
    pub fn unclaimed(&self) -> PageSet {
        let mut set = PageSet::empty(self.page_count);
        for (into, word) in set.words_mut().iter_mut().zip(&self.words) {
            *into = word.load(Ordering::Relaxed);
        }
        set
    }

    /// The first pages at `from` or later that nobody has claimed, `max_pages` at most, as of now.
    pub fn next_unclaimed(&self, from: PageNumber, max_pages: u64) -> Option<PageRun> {
        next_run(from..self.page_count, max_pages, |index| self.words[index].load(Ordering::Relaxed))
    }

    fn word(&self, page: PageNumber) -> &AtomicU64 {
        &self.words[(page / WORD_BITS) as usize]
    }

    /// Claims the first unclaimed run in `page .. end`, which lies within one word.
    fn claim_in_word(&self, page: PageNumber, end: PageNumber) -> Option<PageRun> {
        let word = self.word(page);
        let wanted = mask(page % WORD_BITS, end - page);
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let left = seen & wanted;
            if left == 0 {
                return None;
            }
            let low = u64::from(left.trailing_zeros());
            let count = u64::from((left >> low).trailing_ones());
            match word.compare_exchange_weak(
                seen,
                seen & !mask(low, count),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(PageRun::new(page / WORD_BITS * WORD_BITS + low, count)),
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_claimed_once_by_two_threads() {
        let mut set = PageSet::all(100_000);
        set.remove_run(PageRun::new(777, 1500));
        let expected = set.clone();
        let claims = Claims::new(&set);
        let claim_all = |mut from| {
            let mut mine = PageSet::empty(100_000);
            for _ in 0..2 {
                while let Some(run) = claims.claim_next(from) {
                    for page in run.pages() {
                        assert!(mine.insert(page), "page {page} twice");
                    }
                    from = run.end();
                }
                from = 0;
            }
            mine
        };
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| claim_all(0));
            let b = scope.spawn(|| claim_all(50_000));
            (a.join().unwrap(), b.join().unwrap())
        });
        assert_eq!(a.len() + b.len(), expected.len());
        let mut both = a;
        both.union_with(&b);
        assert_eq!(both, expected);
        assert_eq!(claims.remaining(), 0);
    }

    #[test]
    fn a_part_is_claimed_within_a_run_and_a_word() {
        let claims = Claims::new(&PageSet::all(256));
        assert_eq!(claims.claim_within(PageRun::new(10, 4)), Some(PageRun::new(10, 4)));
        assert_eq!(claims.claim_within(PageRun::new(10, 4)), None);
        assert_eq!(claims.claim_within(PageRun::new(12, 4)), Some(PageRun::new(14, 2)));
        assert_eq!(claims.claim_within(PageRun::new(62, 16)), Some(PageRun::new(62, 2)));
        assert_eq!(claims.claim_within(PageRun::new(250, 99)), Some(PageRun::new(250, 6)));
        assert_eq!(claims.remaining(), 256 - 4 - 2 - 2 - 6);
        assert_eq!(claims.claim_first(100, 200), Some(28));
        assert_eq!(claims.claim_first(100, 200), None);
        assert_eq!(claims.claim_first(128, 132), Some(4));
        assert_eq!(claims.claim_first(249, 999), Some(1));
        assert_eq!(claims.claim_first(256, 999), None);
    }
}
