//! Where values lie across a curve: linear or by logarithms, with a place for zero and for what has no limit.

/// From values to positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positions {
    /// The least and the greatest of the values that lie on the axis; their logarithms, if it is one of those.
    from: f64,
    to: f64,
    is_log: bool,
    /// Zero stands apart, at the left.
    zero_apart: bool,
    /// What has no limit stands apart, at the right.
    unlimited_apart: bool,
}

/// The share of the width that a value that stands apart takes.
const APART: f64 = 0.18;
/// Free at both ends.
const MARGIN: f64 = 0.06;

impl Positions {
    /// For these values; nothing if there are none. Logarithms, if they differ by more than a factor of thirty.
    pub fn of(values: impl Iterator<Item = Option<u64>> + Clone) -> Option<Positions> {
        values.clone().next()?;
        let limited = || values.clone().flatten();
        let least = limited().filter(|&value| value > 0).min();
        let most = limited().max().unwrap_or(0);
        let is_log = least.is_some_and(|least| most / least >= 30);
        let zero_apart = is_log && limited().any(|value| value == 0);
        let unlimited_apart = values.clone().any(|value| value.is_none());
        let place = |value: u64| if is_log { (value as f64).log10() } else { value as f64 };
        let from = if is_log { least.unwrap_or(1) } else { limited().min().unwrap_or(0) };
        Some(Positions { from: place(from), to: place(most), is_log, zero_apart, unlimited_apart })
    }

    /// From 0 to 1.
    pub fn place(&self, value: Option<u64>) -> f64 {
        let left = MARGIN + if self.zero_apart { APART } else { 0.0 };
        let right = 1.0 - MARGIN - if self.unlimited_apart { APART } else { 0.0 };
        match value {
            None => 1.0 - MARGIN,
            Some(0) if self.is_log => MARGIN,
            Some(value) => {
                let value = if self.is_log { (value as f64).log10() } else { value as f64 };
                let width = self.to - self.from;
                let share = if width > 0.0 { (value - self.from) / width } else { 0.5 };
                left + share.clamp(0.0, 1.0) * (right - left)
            }
        }
    }

    /// Whether distances are factors.
    pub fn is_log(&self) -> bool {
        self.is_log
    }

    /// Whether zero is off the axis.
    pub fn has_zero_apart(&self) -> bool {
        self.zero_apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[Option<u64>]) -> Positions {
        Positions::of(values.iter().copied()).unwrap()
    }

    #[test]
    fn near_values_are_linear_and_zero_is_one_of_them() {
        let positions = of(&[Some(0), Some(100), Some(200)]);
        assert!(!positions.is_log() && !positions.has_zero_apart());
        let [zero, half, whole] = [0, 100, 200].map(|value| positions.place(Some(value)));
        assert!((half - zero - (whole - half)).abs() < 1e-9 && zero < half);
    }

    #[test]
    fn far_values_are_logarithms_and_zero_stands_apart() {
        let positions = of(&[Some(0), Some(1_000), Some(10_000), Some(100_000)]);
        let [zero, one, ten, hundred] = [0, 1_000, 10_000, 100_000].map(|value| positions.place(Some(value)));
        assert!(positions.is_log() && positions.has_zero_apart());
        assert!(zero < one && (ten - one - (hundred - ten)).abs() < 1e-9);
    }

    #[test]
    fn one_value_lies_in_the_middle_and_what_has_no_limit_at_the_right() {
        assert!((of(&[Some(7)]).place(Some(7)) - 0.5).abs() < 1e-9);
        let positions = of(&[Some(1_000_000_000), None]);
        assert!(positions.place(Some(1_000_000_000)) < positions.place(None));
        assert_eq!(of(&[None]).place(None), 1.0 - MARGIN);
        assert_eq!(Positions::of([].into_iter()), None);
    }
}
