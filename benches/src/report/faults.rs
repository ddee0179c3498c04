//! Post-copy's page faults, by powers of two of microseconds.

use maud::{Markup, html};

use super::bars::{WIDTH, px};
use crate::{summary::Row, units};

const HEIGHT: f64 = 170.0;
const BOTTOM: f64 = 34.0;
const LEFT: f64 = 8.0;

/// All runs of the arm together.
fn counts(row: &Row<'_>) -> Vec<u64> {
    let mut counts: Vec<u64> = Vec::new();
    for run in row.measured() {
        let histogram = &run.page_faults.histogram;
        counts.resize(counts.len().max(histogram.len()), 0);
        for (sum, count) in counts.iter_mut().zip(histogram) {
            *sum += count;
        }
    }
    counts
}

/// The picture; nothing where there was no fault.
pub fn draw(row: &Row<'_>) -> Option<Markup> {
    let counts = counts(row);
    let first = counts.iter().position(|&count| count > 0)?;
    let shown = &counts[first..];
    let all: u64 = counts.iter().sum();
    let most = shown.iter().copied().max()?.max(1) as f64;
    let step = ((WIDTH - 2.0 * LEFT) / shown.len() as f64).min(60.0);
    let room = HEIGHT - BOTTOM - 18.0;
    // Where there are many, each second label has to do.
    let every = if step < 34.0 { 2 } else { 1 };
    Some(html! {
        svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="How long page faults took" {
            line.axis x1=(px(LEFT)) x2=(px(WIDTH - LEFT)) y1=(px(HEIGHT - BOTTOM)) y2=(px(HEIGHT - BOTTOM)) {}
            @for (i, &count) in shown.iter().enumerate() {
                @let x = LEFT + i as f64 * step;
                @let height = count as f64 / most * room;
                @let (from, to) = bucket(first + i);
                rect class=(format!("s-{}", row.strategy.name())) x=(px(x + 1.0)) width=(px(step - 2.0))
                    y=(px(HEIGHT - BOTTOM - height)) height=(px(height)) {
                    title {
                        (units::micros(from)) " to " (units::micros(to)) ": " (units::count(count)) " faults, "
                        (units::digits(count as f64 * 100.0 / all as f64)) " %"
                    }
                }
                @if count > 0 && step >= 26.0 {
                    text.tick x=(px(x + step / 2.0)) y=(px(HEIGHT - BOTTOM - height - 4.0)) text-anchor="middle" {
                        (share(count, all))
                    }
                }
                @if i % every == 0 {
                    text.tick x=(px(x + 1.0)) y=(px(HEIGHT - BOTTOM + 14.0)) { (short(from)) }
                }
            }
            text.tick x=(px(WIDTH - LEFT)) y=(px(HEIGHT - 4.0)) text-anchor="end" { "from fault to page in place, µs" }
        }
    })
}

/// What bucket `i` holds: from, and up to.
fn bucket(i: usize) -> (u64, u64) {
    let to = 1u64 << i.min(63);
    (if i == 0 { 0 } else { to / 2 }, to)
}

fn share(count: u64, all: u64) -> String {
    match count * 100 / all.max(1) {
        0 => "<1 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

fn short(micros: u64) -> String {
    match micros {
        0..10_000 => micros.to_string(),
        _ => format!("{}k", micros / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        assert_eq!([bucket(0), bucket(1), bucket(6)], [(0, 1), (1, 2), (32, 64)]);
    }
}
