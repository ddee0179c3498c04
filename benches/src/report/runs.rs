//! Every run, for who wants to see what a median hides.

use maud::{Markup, html};

use crate::{
    results::{Results, Run},
    units,
};

/// As a table that is folded at first.
pub fn draw(results: &Results) -> Markup {
    let time = |us: Option<u64>| us.map_or_else(|| "–".to_owned(), units::micros);
    let state = |run: &Run| match &run.error {
        Some(error) => error.clone(),
        None if run.host_overloaded => {
            let stolen = run.stolen_cpu_us / 1_000;
            format!("busy host: {} % by others, {stolen} ms taken away", run.others_cpu_percent)
        }
        None => "ok".to_owned(),
    };
    html! {
        details {
            summary { "All " (results.runs.len()) " runs, in the order in which they were made" }
            div.scroll {
                table {
                    thead { tr {
                        @for name in ["", "Strategy", "Memory", "Pages/s", "Guest", "Engine", "Client", "Stall", "Total", "Sent", "How it went"] {
                            th scope="col" { (name) }
                        }
                    } }
                    tbody {
                        @for run in &results.runs {
                            tr {
                                td { (run.pass) }
                                td { (run.engine.label(run.strategy)) }
                                td { (units::bytes(run.workload.memory_bytes)) }
                                td { (units::count(run.workload.dirty_rate_pages_per_second)) }
                                td { (time(run.downtime_guest_us)) }
                                td { (time(run.moved.downtime_engine_us)) }
                                td { (time(run.client.as_ref().and_then(|client| client.downtime_client_us))) }
                                td { (time(run.longest_stall_us)) }
                                td { (time(run.total_us)) }
                                td { (run.moved.bytes_sent.map_or_else(|| "–".to_owned(), units::bytes)) }
                                td.words { (state(run)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
