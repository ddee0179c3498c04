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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_a_value_that_was_measured() {
        assert_eq!(Spread::of([3, 1, 2]), Some(Spread { min: 1, median: 2, max: 3 }));
        assert_eq!(Spread::of([4, 1, 2, 3]), Some(Spread { min: 1, median: 2, max: 4 }));
        assert_eq!(Spread::of([7]), Some(Spread { min: 7, median: 7, max: 7 }));
        assert_eq!(Spread::of([]), None);
    }
}
