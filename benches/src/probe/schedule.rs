//! When something is to be sent: at fixed times, whatever happens.

/// Points in time at equal distances.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    next_ns: u64,
    period_ns: u64,
    left: u64,
}

impl Schedule {
    /// From `first_ns` on, at most `most` times.
    pub fn new(first_ns: u64, period_ns: u64, most: u64) -> Schedule {
        Schedule { next_ns: first_ns, period_ns: period_ns.max(1), left: most }
    }

    /// The next point, if it has come. Those that were missed are still due, one after another.
    pub fn due(&mut self, now_ns: u64) -> Option<u64> {
        if self.left == 0 || self.next_ns > now_ns {
            return None;
        }
        let due = self.next_ns;
        self.next_ns += self.period_ns;
        self.left -= 1;
        Some(due)
    }

    /// When the next point will be; nothing if there is none any more.
    pub fn next(&self) -> Option<u64> {
        (self.left > 0).then_some(self.next_ns)
    }

    /// There is none any more.
    pub fn end(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_still_due_at_its_time() {
        let mut schedule = Schedule::new(1_000, 10, 5);
        assert_eq!(schedule.due(999), None);
        assert_eq!(schedule.due(1_000), Some(1_000));
        // Nobody looked for a while.
        let due: Vec<u64> = std::iter::from_fn(|| schedule.due(1_035)).collect();
        assert_eq!(due, [1_010, 1_020, 1_030]);
        assert_eq!(schedule.next(), Some(1_040));
        assert_eq!((schedule.due(9_999), schedule.due(9_999), schedule.next()), (Some(1_040), None, None));
    }
}
