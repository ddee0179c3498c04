//! The page, from the answer down to the details.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{curves, facts, figures, runs, summary_table, timeline::Panels};
use crate::{
    peer,
    results::{Results, Timelines},
    summary::{Client, Summary, describe},
    table,
    verdict::{self, Verdict},
};

const STYLE: &str = include_str!("style.css");
/// Works without any network, and the page works without it.
const HOVER: &str = include_str!("hover.js");

/// All of it.
pub fn draw(results: &Results, timelines: &Timelines) -> Markup {
    let summary = Summary::of(results);
    let panels = Panels::of(&summary, results, timelines);
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
                    (summary_table::draw(&summary))
                    (notes(&summary, &results.notes))
                    @if summary.rows.iter().any(|row| row.measured().next().is_some()) {
                        @match &panels {
                            Some(panels) => (panels.draw()),
                            None => (no_timeline(&summary)),
                        }
                        @if let Some(curves) = curves::draw(&summary) { (curves) }
                        (figures::draw(&summary))
                    }
                    (runs::draw(results))
                    section { h2 { "Where and how" } (facts::draw(results)) (clocks()) }
                }
                @if panels.is_some() { script { (PreEscaped(HOVER)) } }
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

/// What the terminal says around its tables: what was left out, what went wrong, and what differs between the engines.
fn notes(summary: &Summary<'_>, left_out: &[String]) -> Markup {
    let is_warning = |note: &str| note.starts_with("WARNING") || note.starts_with("INCOMPLETE");
    let peers = peer::notes(summary);
    html! {
        p.note { "–: not measured by this engine, or there is none." }
        @for note in left_out.iter().chain(&table::notes(summary)) {
            p class=(if is_warning(note) { "note warning" } else { "note" }) { (note) }
        }
        @if let Some(words) = &peers {
            h2 { "What differs between the engines" }
            p.note { "Above 1, \"× Ferry's\" is in Ferry's favour. " (words) }
        }
    }
}

/// Why there is no picture of requests.
fn no_timeline(summary: &Summary<'_>) -> Markup {
    let had_client = summary.rows.iter().any(|row| Client::of(row).is_there());
    html! {
        p.note {
            @if had_client {
                "No picture of single requests: there is no timeline.csv with them beside the results file. A sweep keeps none."
            } @else {
                "No pictures of response times: no client asked the guest while it moved. It takes a network of namespaces (root, "
                "or a kernel that permits user namespaces) and KVM; " code { "ferry doctor" } " says what this host permits."
            }
        }
    }
}

fn clocks() -> Markup {
    html! {
        h3 { "The clocks" }
        p {
            "The guest's: it spins, and notes every step of its loop that took long (one that halts when idle sleeps until "
            "its next tick, and sees up to that much more). Its downtime is the first such gap "
            "at the destination that the source's memory, which stands still from the pause on, does not know: the step "
            "began at the source and ended at the destination. All other gaps of the migration, such as page faults and "
            "the rehearsals before the rounds, are stalls, and the longest is kept beside it. The engine's: from "
            "the word to pause at the source to the first vCPU entering the guest at the destination. The guest "
            "sees more where its first step needs pages that are not there yet, and less where the engine waits "
            "before the guest is stopped. The client's: the longest time between two answers in a row, by a clock that neither side "
            "owns; in the picture the one at the switchover, in the tables the longest, wherever in the migration it lies."
        }
    }
}
