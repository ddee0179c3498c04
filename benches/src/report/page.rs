//! The page, from the answer down to the details.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{bars::Bars, charts, facts, faults, parts, runs};
use crate::{
    results::Results,
    statistics::Spread,
    summary::{Row, Summary, describe},
    table, units,
    verdict::{self, Verdict},
};

const STYLE: &str = include_str!("style.css");

/// All of it.
pub fn draw(results: &Results) -> Markup {
    let summary = Summary::of(results);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Ferry: what moving a running VM costs" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "What moving a running VM costs" }
                    (answer(&summary))
                    (table(&summary))
                    (notes(&summary))
                    @if summary.rows.iter().any(|row| row.measured().next().is_some()) {
                        (charts(&summary))
                    }
                    (runs::draw(results))
                    section { h2 { "Where and how" } (facts::draw(&results.host)) (clocks()) }
                }
            }
        }
    }
}

fn answer(summary: &Summary<'_>) -> Markup {
    let verdicts = verdict::of(summary);
    let lead = |verdict: &Verdict| summary.name_of(&verdict.workload);
    html! {
        section.answer {
            @if let Some(reason) = summary.simulated {
                p.warning {
                    "Simulated guests (" (reason) "): the engine, the links and the bytes are real, the machine is not. "
                    "The figures say how the strategies compare, not how fast a VM moves."
                }
            }
            @if verdicts.is_empty() { p.headline { "No figures: nothing was measured to its end." } }
            @if let [verdict] = &verdicts[..] {
                p.headline { (verdict.headline) }
                ul { @for price in &verdict.prices { li { (price) } } }
                p.guest { "The guest: " (describe(&verdict.workload)) "." }
            } @else {
                @for verdict in &verdicts {
                    p { strong { (lead(verdict).unwrap_or_default()) ": " } (verdict.headline) }
                }
            }
        }
    }
}

fn table(summary: &Summary<'_>) -> Markup {
    let names = [
        "Strategy",
        "Downtime by guest",
        "Downtime by engine",
        "Total",
        "Sent",
        "Of limit",
        "Rounds",
        "Faults p50 / p99",
        "Verified",
    ];
    html! {
        table.summary {
            thead { tr { @for name in names { th scope="col" { (name) } } } }
            tbody {
                @for (workload, rows) in summary.groups() {
                    @if let Some(name) = summary.name_of(&workload) {
                        tr.group { th colspan=(names.len()) { (name) } }
                    }
                    @for row in rows {
                        tr {
                            @for (name, cell) in names.into_iter().zip(cells(row)) {
                                td data-label=(name) { span { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cells(row: &Row<'_>) -> [Markup; 9] {
    let time = |spread: Option<Spread>| {
        html! {
            @match spread {
                None => "–",
                Some(spread) => {
                    (units::micros(spread.median))
                    @if !spread.is_point() { small { (units::micros_range(&spread)) } }
                }
            }
        }
    };
    let faults = html! {
        @match row.faults() {
            None => "–",
            Some((count, p50, p99)) => {
                (p50.median) " / " (units::micros(p99.median)) small { (units::count(count.median)) " faults" }
            }
        }
    };
    let plain = |text: Option<String>| html! { (text.unwrap_or_else(|| "–".to_owned())) };
    [
        html! { strong { i class=(format!("swatch s-{}", row.strategy.name())) {} (row.strategy) } },
        time(row.downtime_guest()),
        time(row.downtime_engine()),
        time(row.total()),
        plain(row.bytes().map(|spread| units::bytes(spread.median))),
        plain(row.percent_of_limit().map(|spread| format!("{} %", spread.median))),
        plain(row.rounds().map(|spread| spread.median.to_string())),
        faults,
        plain(Some(table::verdict(row))),
    ]
}

fn notes(summary: &Summary<'_>) -> Markup {
    html! {
        @for note in table::notes(summary) {
            p class=(if note.starts_with("WARNING") || note.starts_with("INCOMPLETE") { "note warning" } else { "note" }) {
                (note)
            }
        }
    }
}

fn charts(summary: &Summary<'_>) -> Markup {
    let log = |bars: &Bars| {
        if bars.scale().is_log() { " Log scale: each line is ten times the one before." } else { "" }
    };
    let (downtime, total, sent) = (charts::downtime(summary), charts::total(summary), charts::sent(summary));
    html! {
        section.charts {
            figure {
                h2 { "Downtime" }
                (downtime.draw())
                figcaption {
                    "How long the guest stood still. Solid: by the guest's own clock; pale: by the engine's. Bars are "
                    "medians, dots single runs." (log(&downtime))
                }
            }
            figure {
                h2 { "Downtime in its parts" }
                (parts::draw(summary))
                (parts::legend(summary))
                figcaption { "Shares of the engine's downtime, in the run of the median; each bar has its own scale." }
            }
            figure {
                h2 { "Total time" }
                (total.draw())
                figcaption {
                    "From the command until the source is free of duty. The mark: what plain TCP takes for that memory."
                    (log(&total))
                }
            }
            figure {
                h2 { "Sent" }
                (sent.draw())
                figcaption { "Bytes on the wire. The mark: the guest's memory." (log(&sent)) }
            }
            @for row in &summary.rows {
                @if let Some(run) = row.median_run().filter(|run| !run.moved.rounds.is_empty()) {
                    @let bars = charts::rounds(run);
                    figure {
                        h2 { "Rounds" (of(summary, row)) }
                        (bars.draw())
                        figcaption {
                            "Solid: pages sent; pale: pages the guest wrote meanwhile, which have to go again. The run of "
                            "the median." (log(&bars))
                        }
                    }
                }
                @if let (Some(picture), Some((count, p50, p99))) = (faults::draw(row), row.faults()) {
                    figure {
                        h2 { "Page faults" (of(summary, row)) }
                        (picture)
                        figcaption {
                            "How long the guest waited for a missing page, all runs together: half of the faults up to "
                            (units::micros(p50.median)) ", 99 % up to " (units::micros(p99.median)) "; "
                            (units::count(count.median)) " a run."
                        }
                    }
                }
            }
        }
    }
}

fn of(summary: &Summary<'_>, row: &Row<'_>) -> String {
    let name = summary.name_of(&row.workload).map(|name| format!(", {name}")).unwrap_or_default();
    format!(" of {}{name}", row.strategy)
}

fn clocks() -> Markup {
    html! {
        h3 { "The clocks" }
        p {
            "The guest's: it spins, and notes every step of its loop that took long. Its downtime is the first such gap "
            "at the destination that the source's memory, which stands still from the pause on, does not know: the step "
            "began at the source and ended at the destination. All other gaps of the migration, such as page faults and "
            "the rehearsals before the rounds, are stalls, and the longest is kept beside it. The engine's: from "
            "the word to pause at the source to the first vCPU entering the guest at the destination. The guest "
            "sees more where its first step needs pages that are not there yet, and less where the engine waits "
            "before the guest is stopped."
        }
    }
}
