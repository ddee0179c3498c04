//! Histograms over powers of two: how often something took how long.

use maud::{Markup, html};

use super::bars::{WIDTH, px};
use crate::units;

const HEIGHT: f64 = 170.0;
const BOTTOM: f64 = 34.0;
const LEFT: f64 = 8.0;

/// Columns beside each other.
#[derive(Debug)]
pub struct Histogram {
    /// From, to, and how many, of neighbouring buckets; in microseconds.
    pub buckets: Vec<(f64, f64, u64)>,
    /// Classes for the colour.
    pub class: String,
    /// What was counted, in the plural.
    pub what: &'static str,
    /// What the axis is.
    pub axis: &'static str,
    /// What the picture says, for those who cannot see it.
    pub describes: String,
    /// Whether rare columns are to be seen beside frequent ones: heights are then logarithms.
    pub is_log: bool,
}

impl Histogram {
    /// The picture, from the first bucket that holds anything to the last; nothing if none does.
    pub fn draw(&self) -> Option<Markup> {
        let first = self.buckets.iter().position(|bucket| bucket.2 > 0)?;
        let last = self.buckets.iter().rposition(|bucket| bucket.2 > 0)?;
        let shown = &self.buckets[first..=last];
        let all: u64 = shown.iter().map(|bucket| bucket.2).sum();
        let most = shown.iter().map(|bucket| bucket.2).max()?.max(1);
        let step = ((WIDTH - 2.0 * LEFT) / shown.len() as f64).min(60.0);
        let room = HEIGHT - BOTTOM - 18.0;
        let height = |count: u64| match (count, self.is_log) {
            (0, _) => 0.0,
            (count, false) => count as f64 / most as f64 * room,
            // One is half of ten, so that it is to be seen.
            (count, true) => ((count as f64).log10() + 0.5) / ((most as f64).log10() + 0.5) * room,
        };
        // Where there are many, each second label has to do.
        let every = if step < 34.0 { 2 } else { 1 };
        Some(html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.describes) {
                line.axis x1=(px(LEFT)) x2=(px(WIDTH - LEFT)) y1=(px(HEIGHT - BOTTOM)) y2=(px(HEIGHT - BOTTOM)) {}
                @for (i, &(from, to, count)) in shown.iter().enumerate() {
                    @let x = LEFT + i as f64 * step;
                    @let top = HEIGHT - BOTTOM - height(count);
                    rect class=(self.class) x=(px(x + 1.0)) width=(px(step - 2.0)) y=(px(top)) height=(px(height(count))) {
                        title {
                            (micros(from)) " to " (micros(to)) ": " (units::count(count)) " " (self.what) ", "
                            (units::digits(count as f64 * 100.0 / all as f64)) " %"
                        }
                    }
                    @if count > 0 && step >= 26.0 {
                        text.tick x=(px(x + step / 2.0)) y=(px(top - 4.0)) text-anchor="middle" { (self.says(count, all)) }
                    }
                    @if i % every == 0 {
                        text.tick x=(px(x + 1.0)) y=(px(HEIGHT - BOTTOM + 14.0)) { (short(from)) }
                    }
                }
                text.tick x=(px(WIDTH - LEFT)) y=(px(HEIGHT - 4.0)) text-anchor="end" { (self.axis) }
            }
        })
    }

    /// What stands over a column.
    fn says(&self, count: u64, all: u64) -> String {
        match (self.is_log, count * 100 / all.max(1)) {
            (true, _) => short(count as f64),
            (false, 0) => "<1 %".to_owned(),
            (false, percent) => format!("{percent} %"),
        }
    }
}

fn micros(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{} µs", units::digits(us)),
        us => units::micros(us.round() as u64),
    }
}

fn short(value: f64) -> String {
    match value {
        value if value < 10_000.0 => units::digits(value),
        value => format!("{}k", units::digits(value / 1_000.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[u64], is_log: bool) -> Histogram {
        let bucket = |(i, &count): (usize, &u64)| (2f64.powi(i as i32), 2f64.powi(i as i32 + 1), count);
        Histogram {
            buckets: counts.iter().enumerate().map(bucket).collect(),
            class: "s-post-copy".to_owned(),
            what: "faults",
            axis: "µs",
            describes: String::new(),
            is_log,
        }
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(histogram(&[], false).draw().is_none());
        assert!(histogram(&[0, 0], true).draw().is_none());
    }

    #[test]
    fn empty_buckets_at_both_ends_are_left_out_and_those_between_are_not() {
        let picture = histogram(&[0, 3, 0, 1, 0, 0], false).draw().unwrap().into_string();
        assert_eq!(picture.matches("<rect").count(), 3);
        assert!(picture.contains("2 µs to 4 µs: 3 faults, 75 %"), "{picture}");
    }

    #[test]
    fn a_rare_gap_is_seen_beside_frequent_ones() {
        let tops = |is_log| {
            let picture = histogram(&[100_000, 1], is_log).draw().unwrap().into_string();
            let heights = picture
                .split(" height=\"")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().parse::<f64>());
            heights.map(Result::unwrap).collect::<Vec<_>>()
        };
        assert!(tops(false)[1] < 1.0 && tops(true)[1] > 5.0);
    }
}
