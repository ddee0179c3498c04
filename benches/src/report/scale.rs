//! Axes: where a value lies, and where to put ticks.

/// From values to positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From zero to this.
    Linear(f64),
    /// From 10 to this power, to 10 to that power.
    Log(i32, i32),
}

impl Scale {
    /// Linear, unless the values differ by more than a factor of thirty: then small ones would not be seen.
    pub fn fit(values: impl Iterator<Item = u64> + Clone) -> Scale {
        let most = values.clone().max().unwrap_or(1).max(1) as f64;
        let least = values.filter(|&value| value > 0).min().unwrap_or(1) as f64;
        if most / least < 30.0 {
            return Scale::Linear(most * 1.04);
        }
        // The least value keeps a visible bar: the axis begins well below it.
        Scale::Log((least * 0.5).log10().floor() as i32, (most * 1.02).log10().ceil() as i32)
    }

    /// Where a value lies, from 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let place = match *self {
            Scale::Linear(most) => value / most,
            Scale::Log(from, to) => {
                (value.max(1e-9).log10() - f64::from(from)) / f64::from((to - from).max(1))
            }
        };
        place.clamp(0.0, 1.0)
    }

    /// Whether bars' lengths are not in proportion to their values.
    pub fn is_log(&self) -> bool {
        matches!(self, Scale::Log(..))
    }

    /// A few round values.
    pub fn ticks(&self) -> Vec<f64> {
        match *self {
            Scale::Log(from, to) => (from..=to).map(|power| 10f64.powi(power)).collect(),
            Scale::Linear(most) => {
                let rough = most / 4.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough);
                let step = step.unwrap_or(rough);
                (0..=4).map(|i| f64::from(i) * step).take_while(|&tick| tick <= most).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_values_are_linear_and_far_ones_are_not() {
        assert!(!Scale::fit([100, 200, 2_000].into_iter()).is_log());
        let log = Scale::fit([900, 150_000].into_iter());
        assert_eq!(log, Scale::Log(2, 6));
        assert_eq!(log.ticks().len(), 5);
        assert!((log.place(1_000.0) - 0.25).abs() < 1e-9);
        assert!(log.place(900.0) > 0.2);
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::Linear(104.0).ticks(), [0.0, 50.0, 100.0]);
        assert_eq!(Scale::Linear(410.0).ticks(), [0.0, 200.0, 400.0]);
        assert!((2..=6).contains(&Scale::fit([0].into_iter()).ticks().len()));
    }
}
