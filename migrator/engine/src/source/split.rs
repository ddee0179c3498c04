//! Which of the last dirty pages are sent while the guest is paused, and which follow its start.

use crate::pages::PageSet;

/// How many pages a switchover may send while the guest is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// None: all are missing when the guest starts.
    pub const NONE: Budget = Budget(0);
    /// As many as there are: none is missing.
    pub const ALL: Budget = Budget(u64::MAX);

    /// At most so many.
    pub fn pages(count: u64) -> Budget {
        Budget(count)
    }

    /// How many of `count` pages it allows.
    pub fn of(self, count: u64) -> u64 {
        self.0.min(count)
    }

    /// An empty set for [`split`] to put pages into, in memory that was written to.
    pub(super) fn room(self, page_count: u64) -> PageSet {
        match self {
            Budget::NONE | Budget::ALL => PageSet::none(),
            Budget(_) => {
                let mut room = PageSet::all(page_count);
                room.clear();
                room
            }
        }
    }
}

/// Splits `dirty` into the pages that are sent now, the first that `budget` allows, and those that are missing when the
/// guest starts. `room` is an empty set that the second part goes into: the guest is paused, and new memory would be
/// touched for the first time.
pub(super) fn split(dirty: PageSet, budget: Budget, mut room: PageSet) -> (PageSet, PageSet) {
    match budget {
        Budget::NONE => (room, dirty),
        Budget::ALL => (dirty, room),
        Budget(pages) => {
            let mut now = dirty;
            now.move_all_but_first(pages, &mut room);
            (now, room)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pages::PageRun;

    fn split_of(dirty: &PageSet, budget: Budget) -> (PageSet, PageSet) {
        split(dirty.clone(), budget, budget.room(dirty.page_count()))
    }

    #[test]
    fn each_strategy_is_a_budget() {
        let dirty = PageSet::all(700);
        assert_eq!(split_of(&dirty, Budget::ALL), (dirty.clone(), PageSet::none()));
        assert_eq!(split_of(&dirty, Budget::NONE), (PageSet::none(), dirty.clone()));
        let (now, missing) = split_of(&dirty, Budget::pages(130));
        assert_eq!(now.runs().collect::<Vec<_>>(), [PageRun::new(0, 130)]);
        assert_eq!(missing.runs().collect::<Vec<_>>(), [PageRun::new(130, 570)]);
    }

    #[test]
    fn a_budget_that_all_pages_fit_leaves_none_missing() {
        let mut dirty = PageSet::empty(200);
        dirty.insert_run(PageRun::new(60, 10));
        for pages in [10, 11, 200, u64::MAX - 1] {
            let (now, missing) = split_of(&dirty, Budget::pages(pages));
            assert_eq!((&now, missing.is_empty()), (&dirty, true), "{pages}");
        }
    }

    proptest! {
        #[test]
        fn no_page_is_lost_or_in_both_parts(
            page_count in 1_u64..400,
            numbers in proptest::collection::vec(0_u64..400, 0..200),
            budget in 0_u64..250,
        ) {
            let mut dirty = PageSet::empty(page_count);
            for number in numbers {
                dirty.insert(number % page_count);
            }
            let budget = Budget::pages(budget);
            let (now, missing) = split_of(&dirty, budget);
            prop_assert_eq!(now.len(), budget.of(dirty.len()));
            prop_assert_eq!(now.len() + missing.len(), dirty.len());
            let part_of = |page| u8::from(now.contains(page)) + u8::from(missing.contains(page));
            prop_assert!((0..page_count).all(|page| part_of(page) == u8::from(dirty.contains(page))));
            // A prefix: the missing ones stay in long runs.
            let last_now = now.runs().last().map_or(0, |run| run.end());
            prop_assert!(missing.next_run(0, 1).is_none_or(|run| run.first >= last_now));
        }
    }
}
