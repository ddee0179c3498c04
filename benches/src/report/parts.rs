//! Downtime in its parts, each arm's to its own scale: what matters is which part is large.

use engine::timeline::DowntimeParts;
use maud::{Markup, html};

use super::bars::{WIDTH, px};
use crate::{
    summary::{Row, Summary},
    units,
};

/// The parts in the order in which they happen: name, class, what it is.
const PARTS: [(&str, &str, &str); 7] = [
    ("pause", "p-pause", "stopping the vCPUs and draining devices"),
    ("save state", "p-save", "saving the state of vCPUs and devices"),
    ("final pages", "p-pages", "taking the last dirty pages and giving them to the link"),
    ("transfer", "p-transfer", "pages and state on the wire, and the answer"),
    ("verify", "p-verify", "comparing digests of all memory"),
    ("load", "p-load", "loading the state at the destination"),
    ("start", "p-start", "from the handover to the first vCPU entering the guest"),
];

fn values(parts: &DowntimeParts) -> [u64; 7] {
    [parts.pause, parts.save_state, parts.final_pages, parts.transfer, parts.verify, parts.load, parts.start]
}

const BAR: f64 = 18.0;
const BLOCK: f64 = 46.0;
const HEADING: f64 = 22.0;

/// An arm with its heading; of another engine no parts are known.
type Part<'a> = (Option<String>, &'a Row<'a>, Option<[u64; 7]>);

/// The picture: the run of the median downtime stands for its arm.
pub fn draw(summary: &Summary<'_>) -> Markup {
    let mut rows: Vec<Part<'_>> = Vec::new();
    let groups = summary.groups();
    for (workload, group) in &groups {
        let mut heading = summary.name_of(workload);
        for row in group {
            if let Some(run) = row.median_run() {
                rows.push((heading.take(), row, run.moved.downtime_parts_us.as_ref().map(values)));
            }
        }
    }
    let headings = rows.iter().filter(|(heading, ..)| heading.is_some()).count() as f64;
    let height = rows.len() as f64 * BLOCK + headings * HEADING;
    let mut top = 0.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label="Downtime in its parts" {
            @for (heading, row, values) in &rows {
                @if let Some(heading) = heading {
                    text.heading x="4" y=(px(top + 17.0)) { (heading) }
                    ({ top += HEADING; "" })
                }
                text.label x="4" y=(px(top + 15.0)) { (row.label()) }
                text.value x=(px(WIDTH - 4.0)) y=(px(top + 15.0)) text-anchor="end" {
                    @match values {
                        Some(values) => { (units::micros(values.iter().sum())) " by the engine" }
                        None => "not measured",
                    }
                }
                @if let Some(values) = values { (stack(values, top + 20.0)) }
                ({ top += BLOCK; "" })
            }
        }
    }
}

fn stack(values: &[u64; 7], y: f64) -> Markup {
    let sum = values.iter().sum::<u64>().max(1) as f64;
    let room = WIDTH - 8.0;
    let mut x = 4.0;
    html! {
        @for (value, (name, class, what)) in values.iter().zip(PARTS) {
            @let width = *value as f64 / sum * room;
            @if *value > 0 {
                rect class=(class) x=(px(x)) y=(px(y)) height=(px(BAR)) width=(px((width - 1.0).max(0.5))) {
                    title { (name) ": " (units::micros(*value)) " – " (what) }
                }
                @if width > 34.0 {
                    text class=(format!("inside {class}-ink")) x=(px(x + width / 2.0)) y=(px(y + 13.0))
                        text-anchor="middle" { (units::micros(*value)) }
                }
            }
            ({ x += width; "" })
        }
    }
}

/// What the colours mean; only of parts that occur.
pub fn legend(summary: &Summary<'_>) -> Markup {
    let runs: Vec<[u64; 7]> = summary
        .rows
        .iter()
        .filter_map(|row| Some(values(row.median_run()?.moved.downtime_parts_us.as_ref()?)))
        .collect();
    html! {
        ul.legend {
            @for (i, (name, class, what)) in PARTS.iter().enumerate() {
                @if runs.iter().any(|values| values[i] > 0) {
                    li title=(what) { i class=(format!("swatch {class}")) {} (name) }
                }
            }
        }
    }
}
