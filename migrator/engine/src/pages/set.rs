//! Sets of pages, a bit each.

use std::ops::Range;

use super::{PageNumber, PageRun};

const WORD_BITS: u64 = u64::BITS as u64;

/// A set of pages of one guest. Bits past the last page are always clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    page_count: u64,
}

impl PageSet {
    /// No page of a guest that has `page_count`.
    pub fn empty(page_count: u64) -> PageSet {
        PageSet { words: vec![0; page_count.div_ceil(WORD_BITS) as usize], page_count }
    }

    /// No page, of whichever guest: costs no memory.
    pub fn none() -> PageSet {
        PageSet::empty(0)
    }

    /// Every page of a guest that has `page_count`.
    pub fn all(page_count: u64) -> PageSet {
        let mut set = PageSet::empty(page_count);
        set.fill();
        set
    }

    /// How many pages the guest has, in the set or not.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// How many pages are in the set.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Whether `page` is in the set; a page the guest does not have is not.
    pub fn contains(&self, page: PageNumber) -> bool {
        page < self.page_count && self.words[(page / WORD_BITS) as usize] & bit(page) != 0
    }

    /// Puts a page in; says whether it was not there before.
    pub fn insert(&mut self, page: PageNumber) -> bool {
        assert!(page < self.page_count, "page {page} of {}", self.page_count);
        let word = &mut self.words[(page / WORD_BITS) as usize];
        let is_new = *word & bit(page) == 0;
        *word |= bit(page);
        is_new
    }

    /// Puts a run in.
    pub fn insert_run(&mut self, run: PageRun) {
        self.change_run(run, |word, mask| *word |= mask);
    }

    /// Takes a run out.
    pub fn remove_run(&mut self, run: PageRun) {
        self.change_run(run, |word, mask| *word &= !mask);
    }

    /// Moves all pages but the first `kept` to `rest`, an empty set of the same guest.
    pub fn move_all_but_first(&mut self, kept: u64, rest: &mut PageSet) {
        assert_eq!(self.page_count, rest.page_count, "sets of two guests");
        let mut room = kept;
        for (word, moved) in self.words.iter_mut().zip(&mut rest.words) {
            let pages = *word;
            let mut beyond = pages;
            // The lowest set bits go, as long as there is room; usually for all of them or for none.
            match u64::from(pages.count_ones()) {
                count if count <= room => beyond = 0,
                _ => (0..room).for_each(|_| beyond &= beyond.wrapping_sub(1)),
            }
            *word = pages & !beyond;
            *moved = beyond;
            room -= u64::from(word.count_ones());
        }
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts every page in.
    pub fn fill(&mut self) {
        self.words.fill(u64::MAX);
        self.clear_tail();
    }

    /// The pages that are not in it.
    pub fn complement(mut self) -> PageSet {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_tail();
        self
    }

    /// Puts in every page of `other`, a set of the same guest.
    pub fn union_with(&mut self, other: &PageSet) {
        assert_eq!(self.page_count, other.page_count, "sets of two guests");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// The first run that starts at `from` or later, cut at `max_pages`.
    pub fn next_run(&self, from: PageNumber, max_pages: u64) -> Option<PageRun> {
        next_run(from..self.page_count, max_pages, |index| self.words[index])
    }

    /// The set's runs in order, each as long as it can be.
    pub fn runs(&self) -> impl Iterator<Item = PageRun> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(from, u64::MAX)?;
            from = run.end();
            Some(run)
        })
    }

    /// The set as words, page 0 in the lowest bit of the first: how a kernel's log fills it.
    /// Whoever sets bits keeps to the guest's pages; [`PageSet::clear_tail`] mends the rest.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// The set as words, as [`PageSet::words_mut`] shows them.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Clears the bits past the last page.
    pub fn clear_tail(&mut self) {
        let used = self.page_count % WORD_BITS;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }

    fn change_run(&mut self, run: PageRun, change: impl Fn(&mut u64, u64)) {
        let end = run.checked_end().filter(|&end| end <= self.page_count);
        let end = end.unwrap_or_else(|| panic!("{run:?} of {} pages", self.page_count));
        let mut page = run.first;
        while page < end {
            let last = end.min((page / WORD_BITS + 1) * WORD_BITS);
            let mask = mask(page % WORD_BITS, last - page);
            change(&mut self.words[(page / WORD_BITS) as usize], mask);
            page = last;
        }
    }
}

/// The first run of set bits at `from.start` or later, cut off after `max_pages`, in words that `word` gives. The run's end
/// is looked for no further than that, so that a long one taken in parts is gone over once.
pub(super) fn next_run(
    from: Range<PageNumber>,
    max_pages: u64,
    mut word: impl FnMut(usize) -> u64,
) -> Option<PageRun> {
    let first = next_bit(from.clone(), &mut word)?;
    let limit = first.saturating_add(max_pages).min(from.end);
    let end = next_bit(first..limit, |index| !word(index)).unwrap_or(limit);
    Some(PageRun::new(first, end - first))
}

/// The first set bit of `within`.
fn next_bit(within: Range<PageNumber>, mut word: impl FnMut(usize) -> u64) -> Option<PageNumber> {
    let mut from = within.start;
    while from < within.end {
        let left = word((from / WORD_BITS) as usize) >> (from % WORD_BITS);
        if left != 0 {
            let page = from + u64::from(left.trailing_zeros());
            return (page < within.end).then_some(page);
        }
        from = (from / WORD_BITS + 1) * WORD_BITS;
    }
    None
}

const fn bit(page: PageNumber) -> u64 {
    1 << (page % WORD_BITS)
}

/// `count` bits from `low` up; `low + count` is at most 64 and `count` at least 1.
pub(super) const fn mask(low: u64, count: u64) -> u64 {
    (u64::MAX >> (WORD_BITS - count)) << low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_has_each_page_once_and_nothing_past_the_end() {
        for count in [1, 63, 64, 65, 4096, 5000] {
            let all = PageSet::all(count);
            assert_eq!(all.len(), count);
            assert_eq!(all.runs().collect::<Vec<_>>(), [PageRun::new(0, count)]);
            assert!(!all.contains(count));
        }
    }

    /// Issue 12, entry 13: all memory, taken in pieces to hash, is gone over once, however much it is.
    #[test]
    fn entry_13_a_long_run_taken_in_pieces_is_gone_over_once() {
        let pages = 1 << 18;
        let (mut looks, mut from, mut taken) = (0, 0, 0);
        while let Some(run) = next_run(from..pages, 256, |_| {
            looks += 1;
            u64::MAX
        }) {
            taken += run.count;
            from = run.end();
        }
        assert_eq!(taken, pages);
        assert!(looks <= 2 * pages / WORD_BITS, "{looks} looks at {} words", pages / WORD_BITS);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(
            count in 1u64..300,
            steps in prop::collection::vec((any::<bool>(), 0u64..300, 1u64..90), 0..30),
        ) {
            let mut set = PageSet::empty(count);
            let mut model = BTreeSet::new();
            for (insert, first, len) in steps {
                let first = first % count;
                let run = PageRun::new(first, len.min(count - first));
                if insert {
                    set.insert_run(run);
                    model.extend(run.pages());
                } else {
                    set.remove_run(run);
                    model.retain(|page| !run.pages().contains(page));
                }
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_empty(), model.is_empty());
            let listed: Vec<_> = set.runs().flat_map(|run| run.pages()).collect();
            prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            // Runs are maximal: two of them never touch.
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].first));
        }
    }
}
