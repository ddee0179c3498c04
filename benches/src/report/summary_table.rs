//! The one table: a row for each arm.

use maud::{Markup, html};

use crate::{
    statistics::Spread,
    summary::{Row, Summary},
    table, units,
};

/// The table. There is a column for clients where any run had one.
pub fn draw(summary: &Summary<'_>) -> Markup {
    let has_client = summary.rows.iter().any(|row| row.downtime_client().is_some());
    let shown = |(i, _): &(usize, &'static str)| has_client || *i != CLIENT;
    let names: Vec<(usize, &'static str)> = NAMES.into_iter().enumerate().filter(shown).collect();
    html! {
        table.summary {
            thead { tr { @for (_, name) in &names { th scope="col" { (name) } } } }
            tbody {
                @for (workload, rows) in summary.groups() {
                    @if let Some(name) = summary.name_of(&workload) {
                        tr.group { th colspan=(names.len()) { (name) } }
                    }
                    @for row in &rows {
                        @let ours = rows.iter().find(|other| other.is_ours() && other.strategy == row.strategy);
                        @let cells = cells(row, ours.copied().filter(|_| !row.is_ours()));
                        tr {
                            @for (i, name) in &names { td data-label=(name) { span { (cells[*i]) } } }
                        }
                    }
                }
            }
        }
    }
}

const CLIENT: usize = 3;
const NAMES: [&str; 10] = [
    "Strategy",
    "Downtime by guest",
    "Downtime by engine",
    "Downtime by client",
    "Total",
    "Sent",
    "Of limit",
    "Rounds",
    "Faults p50 / p99",
    "Verified",
];

/// Of another engine's row, with how many times our own figure it is.
fn cells(row: &Row<'_>, ours: Option<&Row<'_>>) -> [Markup; 10] {
    let time = |of: &dyn Fn(&Row<'_>) -> Option<Spread>| {
        html! {
            @match of(row) {
                None => "–",
                Some(spread) => {
                    (units::micros(spread.median))
                    @if !spread.is_point() { small { (units::micros_range(&spread)) } }
                    @if let Some(ratio) = ours.and_then(|ours| ratio(&spread, &of(ours)?)) { small.ratio { (ratio) } }
                }
            }
        }
    };
    let faults = html! {
        @match row.faults() {
            None => "–",
            Some((count, p50, p99)) => {
                (units::micros_pair(p50.median, p99.median)) small { (units::count(count.median)) " faults" }
            }
        }
    };
    let plain = |text: Option<String>| html! { (text.unwrap_or_else(|| "–".to_owned())) };
    [
        html! { strong class=[(!row.is_ours()).then_some("peer")] { i class=(format!("swatch s-{}", row.strategy.name())) {} (row.label()) } },
        time(&|row| row.downtime_guest()),
        time(&|row| row.downtime_engine()),
        time(&|row| row.downtime_client()),
        time(&|row| row.total()),
        plain(row.bytes().map(|spread| units::bytes(spread.median))),
        plain(row.percent_of_limit().map(|spread| format!("{} %", spread.median))),
        plain(row.rounds().map(|spread| spread.median.to_string())),
        faults,
        plain(Some(table::verdict(row))),
    ]
}

/// How many times ours it is.
fn ratio(theirs: &Spread, ours: &Spread) -> Option<String> {
    (ours.median > 0)
        .then(|| format!("{} × Ferry's", units::digits(theirs.median as f64 / ours.median as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture, fixture_with_client};

    #[test]
    fn the_clients_column_is_there_where_there_is_a_client() {
        let page = |results| draw(&Summary::of(&results)).into_string();
        assert!(!page(fixture()).contains("by client"));
        assert!(page(fixture_with_client().0).contains("by client"));
    }

    #[test]
    fn another_engine_stands_beside_with_its_ratio() {
        let mut results = fixture();
        let mut theirs = results.runs.clone();
        for run in &mut theirs {
            run.engine = "qemu".into();
            run.downtime_guest_us = run.downtime_guest_us.map(|us| us * 3);
        }
        results.runs.extend(theirs);
        let page = draw(&Summary::of(&results)).into_string();
        assert!(page.contains("qemu pre-copy") && page.contains("3 × Ferry's"), "{page}");
        // Total time was left as it was.
        assert!(page.contains("1 × Ferry's"));
    }
}
