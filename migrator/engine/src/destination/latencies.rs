//! How long page faults took.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{report::FaultStatistics, timeline::micros};

/// What takes longer counts as an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// The time from reading a fault to its page being in place, of all faults, in three digits of microseconds.
pub(super) struct Latencies {
    times: Histogram<u32>,
    sum: Duration,
}

impl Latencies {
    pub fn new() -> Latencies {
        // With bounds: one without them grows by `record`, and clamps what is recorded by `saturating_record`
        // to 2.
        let times =
            Histogram::new_with_bounds(1, LONGEST_US, 3).expect("an hour in three digits is in range");
        Latencies { times, sum: Duration::ZERO }
    }

    pub fn record(&mut self, time: Duration) {
        self.times.saturating_record(micros(time));
        self.sum = self.sum.saturating_add(time);
    }

    pub fn statistics(&self) -> FaultStatistics {
        let mut histogram: Vec<u64> = Vec::new();
        for value in self.times.iter_recorded() {
            let bucket = (u64::BITS - value.value_iterated_to().leading_zeros()) as usize;
            histogram.resize(histogram.len().max(bucket + 1), 0);
            histogram[bucket] += u64::from(value.count_at_value());
        }
        FaultStatistics {
            count: self.times.len(),
            p50_us: self.times.value_at_quantile(0.5),
            p99_us: self.times.value_at_quantile(0.99),
            max_us: self.times.max(),
            blocktime_us: micros(self.sum),
            histogram,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[Duration]) -> FaultStatistics {
        let mut latencies = Latencies::new();
        times.iter().for_each(|time| latencies.record(*time));
        latencies.statistics()
    }

    #[test]
    fn short_and_long_ones_are_told_as_they_were() {
        for expected in [0, 1, 40, 2_047, 2_048, 5_000, 1_000_000, 60_000_000, LONGEST_US] {
            let told = of(&[Duration::from_micros(expected)]);
            for us in [told.p50_us, told.p99_us, told.max_us] {
                assert!(us.abs_diff(expected) <= expected / 500, "{expected} µs is told as {told:?}");
            }
            assert_eq!((told.count, told.histogram.iter().sum::<u64>()), (1, 1));
        }
    }

    #[test]
    fn each_falls_into_its_power_of_two() {
        let told = of(&[1, 3, 3, 40, 5_000].map(Duration::from_micros));
        let counts: Vec<(usize, u64)> =
            told.histogram.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(1, 1), (2, 2), (6, 1), (13, 1)]);
        assert_eq!((told.count, told.p50_us), (5, 3));
    }

    #[test]
    fn blocktime_is_the_sum_and_not_what_the_histogram_makes_of_it() {
        let told = of(&[1_000_400, 777_777, 1_500, 1_500].map(Duration::from_nanos));
        assert_eq!(told.blocktime_us, 1_781);
        let told = of(&[Duration::from_micros(123_456), Duration::from_micros(7_654_321)]);
        assert_eq!(told.blocktime_us, 7_777_777);
    }

    #[test]
    fn none_and_one_beyond_all_bounds() {
        assert_eq!(of(&[]), FaultStatistics::default());
        assert!(of(&[Duration::MAX]).max_us >= LONGEST_US);
    }
}
