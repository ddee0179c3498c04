//! Curves: downtime and total time against what was varied, a line for each strategy. Pictures as in a course.

mod axis;
mod marker;

use maud::{Markup, html};

use axis::Axis;
use marker::{marker, sample};

use super::{
    bars::{WIDTH, px},
    positions::Positions,
    scale::Scale,
};
use crate::{
    plan::Workload,
    results::Run,
    statistics::{Interval, Spread},
    summary::{Row, Summary},
    units,
};

const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 34.0;

/// What is drawn against it.
#[derive(Clone, Copy)]
struct Quantity {
    name: &'static str,
    of: fn(&Run) -> Option<u64>,
}

/// One point of a line.
struct Point {
    x: f64,
    median: u64,
    interval: Interval,
    title: String,
}

/// One line.
struct Line<'a> {
    row: &'a Row<'a>,
    points: Vec<Point>,
}

/// All curves that there are; nothing where nothing was varied.
pub fn draw(summary: &Summary<'_>) -> Option<Markup> {
    let by_guest =
        summary.rows.iter().all(|row| row.downtime_guest().is_some() || row.measured().next().is_none());
    let downtime = match by_guest {
        true => Quantity { name: "Downtime by the guest's clock", of: |run| run.downtime_guest_us },
        false => Quantity { name: "Downtime by the engine's clock", of: |run| run.moved.downtime_engine_us },
    };
    let total = Quantity { name: "Total time", of: |run| run.total_us };
    let mut figures = Vec::new();
    for axis in Axis::ALL {
        for rows in varied(summary, axis) {
            for quantity in [downtime, total] {
                figures.extend(figure(summary, axis, &rows, quantity));
            }
        }
    }
    (!figures.is_empty()).then(|| {
        html! {
            h2.part { "Curves" }
            section.charts { @for figure in &figures { (figure) } }
            p.note {
                "Points are medians, and bars where the true median lies, by order statistics: in 95 % of all cases where there "
                "are six runs or more, from the least to the greatest of fewer (94 % of five runs, 75 % of three, and no "
                "more than the value itself of one)."
            }
        }
    })
}

/// Rows that differ in this axis only, and do so.
fn varied<'a>(summary: &'a Summary<'a>, axis: Axis) -> Vec<Vec<&'a Row<'a>>> {
    let mut groups: Vec<(Workload, Vec<&Row<'_>>)> = Vec::new();
    for row in summary.rows.iter().filter(|row| row.measured().next().is_some()) {
        let rest = axis.rest(&row.workload);
        match groups.iter_mut().find(|(known, _)| *known == rest) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((rest, vec![row])),
        }
    }
    let differs =
        |rows: &[&Row<'_>]| rows.iter().any(|row| axis.value(&row.workload) != axis.value(&rows[0].workload));
    groups.into_iter().map(|(_, rows)| rows).filter(|rows| differs(rows)).collect()
}

fn figure(summary: &Summary<'_>, axis: Axis, rows: &[&Row<'_>], quantity: Quantity) -> Option<Markup> {
    let positions = Positions::of(rows.iter().map(|row| axis.value(&row.workload)))?;
    let lines = lines(axis, rows, quantity, &positions);
    let points = || lines.iter().flat_map(|line| &line.points);
    points().next()?;
    let scale =
        Scale::fit(points().flat_map(|point| [point.median, point.interval.low, point.interval.high]));
    let y = |us: f64| BOTTOM - scale.place(us) * (BOTTOM - TOP);
    let heading = format!("{} {}", quantity.name, axis.heading());
    let fixed = fixed(summary, axis, rows);
    Some(html! {
        figure {
            h2 { (heading) @if !fixed.is_empty() { small { " · " (fixed) } } }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(heading) {
                @for tick in scale.ticks() {
                    line.grid x1=(px(LEFT)) x2=(px(RIGHT)) y1=(px(y(tick))) y2=(px(y(tick))) {}
                    text.tick x=(px(LEFT - 6.0)) y=(px(y(tick) + 4.0)) text-anchor="end" { (units::micros(tick as u64)) }
                }
                (x_axis(axis, rows, &positions))
                @for (i, line) in lines.iter().enumerate() { (line.draw(i as f64 - (lines.len() as f64 - 1.0) / 2.0, &y)) }
            }
            ul.legend { @for line in &lines { li { (sample(line.row)) (line.row.label()) } } }
            figcaption {
                (scales(positions.is_log(), scale.is_log()))
                @if positions.has_zero_apart() { " Zero stands apart at the left: it has no place on a log scale." }
            }
        }
    })
}

fn scales(x_is_log: bool, y_is_log: bool) -> &'static str {
    match (x_is_log, y_is_log) {
        (false, false) => "Both axes are linear.",
        (true, false) => "Across: log scale; upwards: linear.",
        (false, true) => "Across: linear; upwards: log scale.",
        (true, true) => "Both axes are log scales.",
    }
}

/// What was not varied here, but elsewhere.
fn fixed(summary: &Summary<'_>, axis: Axis, rows: &[&Row<'_>]) -> String {
    let varies = |other: Axis| {
        let first = summary.rows.first().map(|row| other.value(&row.workload));
        other != axis && summary.rows.iter().any(|row| Some(other.value(&row.workload)) != first)
    };
    let words = Axis::ALL.into_iter().filter(|&other| varies(other)).map(|other| match other {
        Axis::DirtyRate => format!("{} pages/s", other.say(&rows[0].workload)),
        Axis::Memory | Axis::Bandwidth => other.say(&rows[0].workload),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn lines<'a>(axis: Axis, rows: &[&'a Row<'a>], quantity: Quantity, positions: &Positions) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for &row in rows {
        let values: Vec<u64> = row.measured().filter_map(quantity.of).collect();
        let (Some(spread), Some(interval)) =
            (Spread::of(values.iter().copied()), Interval::of_median(values.iter().copied()))
        else {
            continue;
        };
        let point = Point {
            x: LEFT + positions.place(axis.value(&row.workload)) * (RIGHT - LEFT),
            median: spread.median,
            interval,
            title: format!(
                "{}, {}: median {} of {} runs, from {} to {} ({} %)",
                row.label(),
                axis.say(&row.workload),
                units::micros(spread.median),
                values.len(),
                units::micros(interval.low),
                units::micros(interval.high),
                (interval.coverage * 100.0).round(),
            ),
        };
        match lines.iter_mut().find(|line| line.row.label() == row.label()) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { row, points: vec![point] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    lines
}

fn x_axis(axis: Axis, rows: &[&Row<'_>], positions: &Positions) -> Markup {
    let mut ticks: Vec<(f64, String)> = rows
        .iter()
        .map(|row| (positions.place(axis.value(&row.workload)), axis.say(&row.workload)))
        .collect();
    ticks.sort_by(|a, b| a.0.total_cmp(&b.0));
    ticks.dedup_by(|a, b| a.1 == b.1);
    // Labels that would lie on each other are left out; their points have titles.
    let mut free_from = f64::MIN;
    html! {
        line.axis x1=(px(LEFT)) x2=(px(RIGHT)) y1=(px(BOTTOM)) y2=(px(BOTTOM)) {}
        @for (place, label) in &ticks {
            @let x = LEFT + place * (RIGHT - LEFT);
            @let half = label.chars().count() as f64 * 3.2;
            line.axis x1=(px(x)) x2=(px(x)) y1=(px(BOTTOM)) y2=(px(BOTTOM + 4.0)) {}
            @if x - half > free_from {
                text.tick x=(px(x.min(WIDTH - half))) y=(px(BOTTOM + 16.0)) text-anchor="middle" { (label) }
                ({ free_from = x + half + 4.0; "" })
            }
        }
        text.tick x=(px(RIGHT)) y=(px(HEIGHT - 4.0)) text-anchor="end" { (axis.unit()) }
    }
}

impl Line<'_> {
    /// Lines are a little beside each other, so that their bars can be told apart.
    fn draw(&self, beside: f64, y: &dyn Fn(f64) -> f64) -> Markup {
        let class = format!("s-{}", self.row.strategy.name());
        let at = |point: &Point| (point.x + beside * 4.0, y(point.median as f64));
        let corners = self.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}"));
        let dashes = if self.row.is_ours() { "curve" } else { "curve dashed" };
        html! {
            // One point alone makes no line.
            @if self.points.len() > 1 {
                polyline class=(format!("{dashes} {class}")) points=(corners.collect::<Vec<_>>().join(" ")) {}
            }
            @for point in &self.points {
                @let (x, middle) = at(point);
                @let (low, high) = (y(point.interval.low as f64), y(point.interval.high as f64));
                g {
                    title { (point.title) }
                    path class=(format!("error {class}"))
                        d=(format!("M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h6M{:.1} {high:.1}h6", x - 3.0, x - 3.0)) {}
                    path class=(class) d=(marker(self.row, x, middle)) {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::fixture, results::Results};

    /// The fixture at these dirty rates, each with other downtimes.
    fn at_rates(rates: &[u64]) -> Results {
        let mut results = Results { runs: Vec::new(), ..fixture() };
        for (i, &rate) in rates.iter().enumerate() {
            for mut run in fixture().runs {
                run.workload.dirty_rate_pages_per_second = rate;
                run.downtime_guest_us = run.downtime_guest_us.map(|us| us * (i as u64 + 1));
                results.runs.push(run);
            }
        }
        results
    }

    #[test]
    fn what_was_not_varied_has_no_curve() {
        assert!(draw(&Summary::of(&fixture())).is_none());
        assert!(draw(&Summary::of(&at_rates(&[]))).is_none());
        assert!(draw(&Summary::of(&at_rates(&[5_000]))).is_none());
    }

    #[test]
    fn two_values_make_a_line_for_each_strategy() {
        let page = draw(&Summary::of(&at_rates(&[1_000, 2_000]))).unwrap().into_string();
        assert_eq!(page.matches("<figure").count(), 2);
        assert_eq!(page.matches("<polyline").count(), 6);
        assert_eq!(page.matches("class=\"error").count(), 12);
        assert!(page.contains("against the dirty rate") && page.contains("(75 %)") && !page.contains("NaN"));
    }

    #[test]
    fn a_strategy_with_one_point_has_no_line_and_one_without_figures_is_not_there() {
        let mut results = at_rates(&[0, 1_000, 50_000]);
        results.runs.retain(|run| {
            run.strategy.name() != "post-copy" || run.workload.dirty_rate_pages_per_second == 1_000
        });
        for run in results.runs.iter_mut().filter(|run| run.strategy.name() == "pre-copy") {
            run.outcome = crate::results::RunOutcome::Failed;
        }
        let page = draw(&Summary::of(&results)).unwrap().into_string();
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("post-copy, 1\u{202f}000: median") && !page.contains("pre-copy, "));
        assert!(page.contains("Zero stands apart"));
    }

    #[test]
    fn each_axis_is_drawn_with_the_others_held() {
        let mut results = at_rates(&[1_000, 2_000]);
        let mut shaped = results.runs.clone();
        shaped.iter_mut().for_each(|run| run.workload.link = Some("1Gbit".parse().unwrap()));
        results.runs.extend(shaped);
        let page = draw(&Summary::of(&results)).unwrap().into_string();
        // Two rates at each of two links, and two links at each of two rates; downtime and total time.
        assert_eq!(page.matches("<figure").count(), 8);
        assert!(page.contains("against bandwidth") && page.contains("2\u{202f}000 pages/s"));
        assert!(page.contains("no limit") && page.contains("1Gbit"));
    }
}
