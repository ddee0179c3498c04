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
    let counts = add_up(row.measured().filter_map(|run| run.page_faults.histogram.as_deref()));
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
            (blocktime(row))
        }
    })
}

/// What bucket `i` holds: from, and up to.
fn bucket(i: usize) -> (f64, f64) {
    let to = 2f64.powi(i as i32);
    (if i == 0 { 0.0 } else { to / 2.0 }, to)
}

/// The sum of all waits of a run, as the fault thread added them up. What of it is not exact is said in docs/report.md,
/// and here.
fn blocktime(row: &Row<'_>) -> Markup {
    html! {
        @match row.blocktime() {
            Some(sum) => {
                " Blocktime, the sum of a run's waits: " strong { (units::micros(sum.median)) }
                @if !sum.is_point() { " (" (units::micros_range(&sum)) ")" }
                ", added up to the microsecond, from a page's first fault to the answer; a page that several vCPUs wait "
                "for counts once."
            }
            None => " Blocktime, the sum of these waits, was not measured.",
        }
    }
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
    use crate::{gaps::GapHistogram, results::Results, summary::Summary};

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([bucket(0), bucket(1), bucket(6)], [(0.0, 1.0), (1.0, 2.0), (32.0, 64.0)]);
    }

    #[test]
    fn blocktime_is_what_was_measured_and_no_guess() {
        let mut results = crate::report::fixture();
        results.runs.retain(|run| run.strategy.name() == "post-copy");
        let picture = |results: &Results| draw(&Summary::of(results).rows[0]).unwrap().into_string();
        assert!(picture(&results).contains("was not measured"), "the fixture is older than the figure");
        for (run, us) in results.runs.iter_mut().zip([98_765, 43_210, 54_321]) {
            run.page_faults.blocktime_us = Some(us);
        }
        let words = picture(&results);
        assert!(words.contains("<strong>54.3 ms</strong> (43.2–98.8)"), "{words}");
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
