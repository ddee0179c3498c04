//! What the guest waited for: page faults at the destination, and the gaps it saw itself.

use maud::{Markup, html};

use super::histogram::Histogram;
use crate::{results::Run, summary::Row, units};

/// Sums of the counts of all runs of an arm, bucket by bucket.
fn add_up<'a>(histograms: impl Iterator<Item = &'a [u64]>) -> Vec<u64> {
    let mut counts: Vec<u64> = Vec::new();
    for histogram in histograms {
        counts.resize(counts.len().max(histogram.len()), 0);
        for (sum, count) in counts.iter_mut().zip(histogram) {
            *sum += count;
        }
    }
    counts
}

/// Page faults; nothing where there was none.
pub fn draw(row: &Row<'_>) -> Option<Markup> {
    let (count, p50, p99) = row.faults()?;
    let counts = add_up(row.measured().map(|run| &run.page_faults.histogram[..]));
    let buckets =
        counts.into_iter().enumerate().map(|(i, count)| (bucket(i).0, bucket(i).1, count)).collect();
    let histogram = Histogram {
        buckets,
        class: format!("s-{}", row.strategy.name()),
        what: "faults",
        axis: "from fault to page in place, µs",
        describes: "How long page faults took".to_owned(),
        is_log: false,
    };
    let picture = histogram.draw()?;
    Some(html! {
        (picture)
        figcaption {
            "How long the guest waited for a missing page, all runs together: half of the faults up to "
            (units::micros(p50.median)) ", 99 % up to " (units::micros(p99.median)) "; " (units::count(count.median)) " a run."
            @if let Some((from, to)) = blocktime(row) {
                " Blocktime, the sum of these waits in the run of the median: from " (units::micros(from)) " to "
                (units::micros(to)) ", as far as the histogram tells."
            }
        }
    })
}

/// What bucket `i` holds: from, and up to.
fn bucket(i: usize) -> (f64, f64) {
    let to = 2f64.powi(i as i32);
    (if i == 0 { 0.0 } else { to / 2.0 }, to)
}

/// The sum of all waits, at least and at most: buckets are a factor of two wide.
fn blocktime(row: &Row<'_>) -> Option<(u64, u64)> {
    let faults = &row.median_run()?.page_faults;
    let sum = |edge: &dyn Fn(usize) -> f64| -> u64 {
        let waits = faults.histogram.iter().enumerate().map(|(i, &count)| edge(i) * count as f64);
        waits.sum::<f64>() as u64
    };
    let longest = faults.max_us.unwrap_or(0) as f64;
    (faults.count > 0).then(|| (sum(&|i| bucket(i).0), sum(&|i| bucket(i).1.min(longest.max(bucket(i).0)))))
}

/// The guest's own gaps, all runs together; nothing where the guest counted none.
pub fn gaps(row: &Row<'_>) -> Option<Markup> {
    let histograms = || row.measured().filter_map(|run: &Run| run.guest_gaps.as_ref());
    let bounds = histograms().next()?;
    let counts = add_up(histograms().map(|histogram| &histogram.counts[..]));
    let with_bounds = |(i, count): (usize, u64)| (bounds.bounds_us(i).0, bounds.bounds_us(i).1, count);
    let histogram = Histogram {
        buckets: counts.into_iter().enumerate().map(with_bounds).collect(),
        class: format!("s-{}", row.strategy.name()),
        what: "gaps",
        axis: "time between two steps of the guest, µs",
        describes: "How long the gaps were that the guest saw".to_owned(),
        is_log: true,
    };
    let picture = histogram.draw()?;
    Some(html! {
        (picture)
        figcaption {
            "By the guest's own clock, from the command to the end of the migration, all runs together; the numbers over the "
            "columns are counts, and heights are their logarithms. The switchover is at the right end; the rest is what "
            "the guest felt of the rounds, of page faults, and of the host's scheduler."
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gaps::GapHistogram, summary::Summary};

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([bucket(0), bucket(1), bucket(6)], [(0.0, 1.0), (1.0, 2.0), (32.0, 64.0)]);
    }

    #[test]
    fn blocktime_lies_between_the_edges_of_the_buckets() {
        let mut results = crate::report::fixture();
        results.runs.truncate(1);
        let faults = &mut results.runs[0].page_faults;
        (faults.count, faults.max_us, faults.histogram) = (3, Some(130), vec![0, 0, 0, 0, 0, 0, 2, 0, 1]);
        let summary = Summary::of(&results);
        // Two took 32 to 64 µs, and one from 128 to the longest.
        assert_eq!(blocktime(&summary.rows[0]), Some((192, 258)));
    }

    #[test]
    fn gaps_of_all_runs_are_added_up() {
        let mut results = crate::report::fixture();
        let counts = vec![0, 0, 4, 1];
        for run in &mut results.runs {
            run.guest_gaps = Some(GapHistogram { tsc_khz: 1_000, counts: counts.clone() });
        }
        let summary = Summary::of(&results);
        let picture = gaps(&summary.rows[0]).unwrap().into_string();
        assert!(picture.contains("4 µs to 8 µs: 12 gaps, 80 %"), "{picture}");
        assert!(gaps(&Summary::of(&crate::report::fixture()).rows[0]).is_none());
    }
}
