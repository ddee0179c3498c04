//! Medians and spreads of a handful of runs.

/// A median between the least and the greatest: all that so few runs can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The least.
    pub min: u64,
    /// The median; of an even number the lower middle, so that it is a value that was measured.
    pub median: u64,
    /// The greatest.
    pub max: u64,
}

impl Spread {
    /// Of these values; nothing of none.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Option<Spread> {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Spread { min: values[0], median, max: values[values.len() - 1] })
    }

    /// All values were the same, at the precision of a table.
    pub fn is_point(&self) -> bool {
        self.min == self.max
    }
}

/// How sure an [`Interval`] is to be, if there are values enough.
const WANTED_COVERAGE: f64 = 0.95;

/// Where the median of all runs that could have been made lies, told from those that were made.
///
/// By order statistics, which takes no distribution for granted: of `n` values in order, the true median lies between
/// the `k`-th from below and the `k`-th from above unless fewer than `k` of them fell on one side of it, which has the
/// probability 2·P(Bin(n, ½) < k). `k` is the greatest with which the interval is right in 95 % of all cases. Of fewer
/// than six values none is: then it goes from the least to the greatest, and `coverage` says how sure that is (94 % of
/// five, 75 % of three, 0 of one).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// From here.
    pub low: u64,
    /// To here.
    pub high: u64,
    /// The probability that the median is in it, from 0 to 1.
    pub coverage: f64,
}

impl Interval {
    /// Around the median of these values; nothing of none.
    pub fn of_median(values: impl IntoIterator<Item = u64>) -> Option<Interval> {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let n = values.len();
        // The probability that at most k - 1 of n fall below the median, for k from 1.
        let mut binomial = 0.5f64.powi(i32::try_from(n).ok()?);
        let mut below = binomial;
        let (mut rank, mut coverage) = (1, 1.0 - 2.0 * below);
        for k in 2..=n / 2 {
            binomial *= (n + 2 - k) as f64 / (k - 1) as f64;
            below += binomial;
            if 1.0 - 2.0 * below < WANTED_COVERAGE {
                break;
            }
            (rank, coverage) = (k, 1.0 - 2.0 * below);
        }
        let (low, high) = (*values.get(rank - 1)?, *values.get(n - rank)?);
        Some(Interval { low, high, coverage: coverage.max(0.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_as_sure_as_its_values_allow() {
        let of = |n: u64| Interval::of_median((1..=n).rev());
        assert_eq!(of(0), None);
        assert_eq!(of(1), Some(Interval { low: 1, high: 1, coverage: 0.0 }));
        assert_eq!(of(3), Some(Interval { low: 1, high: 3, coverage: 0.75 }));
        assert_eq!(of(5), Some(Interval { low: 1, high: 5, coverage: 0.9375 }));
        assert_eq!(of(6), Some(Interval { low: 1, high: 6, coverage: 0.96875 }));
        // The tables of the sign test: 9 values, second from each end, 96.1 %; 20 values, sixth, 95.9 %.
        let nine = of(9).unwrap();
        assert_eq!((nine.low, nine.high, (nine.coverage * 1e3).round()), (2, 8, 961.0));
        let twenty = of(20).unwrap();
        assert_eq!((twenty.low, twenty.high, (twenty.coverage * 1e3).round()), (6, 15, 959.0));
    }

    #[test]
    fn an_interval_of_many_values_is_narrow_and_sure() {
        let many = Interval::of_median(1..=999).unwrap();
        assert!(many.low > 450 && many.high < 550 && many.coverage >= 0.95, "{many:?}");
    }

    #[test]
    fn a_median_is_a_value_that_was_measured() {
        assert_eq!(Spread::of([3, 1, 2]), Some(Spread { min: 1, median: 2, max: 3 }));
        assert_eq!(Spread::of([4, 1, 2, 3]), Some(Spread { min: 1, median: 2, max: 4 }));
        assert_eq!(Spread::of([7]), Some(Spread { min: 7, median: 7, max: 7 }));
        assert_eq!(Spread::of([]), None);
    }
}
