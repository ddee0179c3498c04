//! The pictures in their order, each with what it means.

use maud::{Markup, html};

use super::{bars::Bars, charts, faults, parts, response, rounds};
use crate::{
    summary::{Client, Row, Summary},
    units,
};

/// All but the timeline and the curves.
pub fn draw(summary: &Summary<'_>) -> Markup {
    let (downtime, total, sent) = (charts::downtime(summary), charts::total(summary), charts::sent(summary));
    html! {
        section.charts {
            figure {
                h2 { "Downtime by each clock" }
                (downtime.draw())
                figcaption {
                    "Solid: by the guest's own clock; pale: by the engine's; outlined: by the client's, if there was one, at the switchover. Bars are "
                    "medians, dots single runs." (log(&downtime))
                    @for words in differences(summary) { " " (words) }
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
            @if let Some(picture) = response::draw(summary) {
                figure {
                    h2 { "Response time before, during and after" }
                    (picture)
                    figcaption {
                        "Requests by when they were to be sent: before the command, until the source was free of duty, and after "
                        "that. The stroke: half of them; box: up to 99 %; line: up to 99.9 %; dot: the longest. Medians over "
                        "runs; log scale."
                    }
                }
            }
        }
        @if let Some(table) = response::table(summary) {
            figure.wide {
                h2 { "What the clients felt" }
                (table)
                figcaption {
                    "Throughput: responses a second while the guest was moved, in hundredths of before. Back after: from the end of "
                    "the switchover until the median of 50 requests in a row was within 5 % of its level before. Sent again: "
                    "segments, by the client's TCP. Broken: connections. Wrong: answers and bytes of the checked stream. Sums are "
                    "over all runs, times medians of them."
                    @if let Some(words) = response::probe_words(summary) { " " (words) }
                }
            }
        }
        @if summary.rows.len() > FEW {
            details.each {
                summary { "Rounds, page faults and the guest's gaps of each arm" }
                (details(summary))
            }
        } @else {
            (details(summary))
        }
    }
}

/// More arms than these have their details folded.
const FEW: usize = 12;

/// What is drawn for each arm.
fn details(summary: &Summary<'_>) -> Markup {
    html! {
        section.charts {
            @for row in &summary.rows {
                @if let Some(run) = row.median_run().filter(|run| !run.moved.rounds().is_empty()) {
                    @let bars = rounds::bars(run);
                    figure {
                        h2 { "Rounds" (of(summary, row)) }
                        (bars.draw())
                        figcaption {
                            "Solid: pages sent; pale: pages that were left, since the guest wrote them meanwhile. The run of the "
                            "median: " (rounds::race(run).unwrap_or_default()) (log(&bars))
                        }
                    }
                }
                @if let Some(picture) = faults::draw(row) {
                    figure { h2 { "Page faults" (of(summary, row)) } (picture) }
                }
                @if let Some(picture) = faults::gaps(row) {
                    figure { h2 { "The guest's gaps" (of(summary, row)) } (picture) }
                }
            }
        }
    }
}

fn log(bars: &Bars) -> &'static str {
    if bars.scale().is_log() { " Log scale: each line is ten times the one before." } else { "" }
}

/// How far the clocks are apart, and why.
fn differences(summary: &Summary<'_>) -> Vec<String> {
    let mut words = vec![
        "The engine knows when it stopped the vCPUs and when the first ran again; the guest knows when it did not get on, so it \
         also counts its first steps where they wait for pages."
            .to_owned(),
    ];
    let mut apart = Vec::new();
    for row in &summary.rows {
        if let (Some(guest), Some(client)) = (row.downtime_guest(), Client::of(row).at_switchover) {
            apart.push((client.median as i64 - guest.median as i64, row));
        }
    }
    if let (Some((least, _)), Some((most, row))) =
        (apart.iter().min_by_key(|(us, _)| *us), apart.iter().max_by_key(|(us, _)| *us))
    {
        words.push(format!(
            "The client counts from the last answer before to the first one after: the time between two requests, the way, and \
             until the network has found the guest again. Here it differs from the guest's by {} to {}, the most in {}.",
            units::signed_micros(*least),
            units::signed_micros(*most),
            row.label(),
        ));
    }
    words
}

fn of(summary: &Summary<'_>, row: &Row<'_>) -> String {
    let name = summary.name_of(&row.workload).map(|name| format!(", {name}")).unwrap_or_default();
    format!(" of {}{name}", row.label())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{fixture, fixture_with_client};

    #[test]
    fn the_difference_of_the_clocks_is_said_where_there_are_three() {
        let results = fixture();
        assert_eq!(differences(&Summary::of(&results)).len(), 1);
        let (results, _) = fixture_with_client();
        let words = differences(&Summary::of(&results));
        assert!(words[1].contains("differs from the guest's by"), "{words:?}");
    }

    #[test]
    fn details_of_many_arms_are_folded() {
        let mut results = fixture();
        let few = draw(&Summary::of(&results)).into_string();
        assert!(few.contains("Rounds of pre-copy") && !few.contains("<details"));
        for more in 1..=4 {
            let mut runs = fixture().runs;
            runs.iter_mut().for_each(|run| run.workload.memory_bytes += more << 20);
            results.runs.extend(runs);
        }
        assert!(draw(&Summary::of(&results)).into_string().contains("<details"));
    }
}
