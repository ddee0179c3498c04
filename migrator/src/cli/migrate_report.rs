//! A migration's report on a terminal.

use super::units::{show_bytes, show_count, show_micros};
use crate::{
    report::{Outcome, Report, RoundReport},
    timeline::DowntimeParts,
};

/// Its lines.
pub fn lines(report: &Report) -> Vec<String> {
    // Any other end is told in a sentence of its own, on standard error.
    let moved = report.outcome == Outcome::Completed;
    let mut lines: Vec<String> =
        moved.then(|| format!("{} moved by {}", report.name, report.strategy)).into_iter().collect();
    let mut row = |what: &str, value: String| lines.push(format!("  {what:<15} {value}"));
    let (total, setup) = (show_micros(report.total_us), show_micros(report.moved.setup_us));
    row("total time", format!("{total:>11} (setup {setup})"));
    if let Some(downtime) = report.moved.downtime_engine_us {
        row("downtime", format!("{:>11}", show_micros(downtime)));
        for (part, micros) in parts(&report.moved.downtime_parts_us) {
            row(&format!("  {part}"), format!("{:>11}", show_micros(micros)));
        }
    }
    let (pages, zero) = (show_count(report.moved.pages_sent), show_count(report.moved.zero_pages));
    row("sent", format!("{:>11}, {pages} pages, {zero} of them zero", show_bytes(report.moved.bytes_sent)));
    if !report.moved.rounds.is_empty() || report.moved.push.is_some() {
        row("", format!("{:>11} {:>11} {:>11} {:>11}", "pages", "sent", "time", "dirtied"));
    }
    for (number, round) in report.moved.rounds.iter().enumerate() {
        row(&format!("round {number}"), format!("{} {:>11}", pass(round), show_count(round.dirtied_pages)));
    }
    if let Some(push) = &report.moved.push {
        row("push", pass(push));
    }
    let faults = &report.page_faults;
    if faults.count > 0 {
        let (p50, p99, max) = (faults.p50_us, faults.p99_us, faults.max_us);
        let waited =
            format!("p50 {}, p99 {}, longest {}", show_micros(p50), show_micros(p99), show_micros(max));
        row("page faults", format!("{:>11}, {waited}", show_count(faults.count)));
        row("blocktime", format!("{:>11}, all their waits together", show_micros(faults.blocktime_us)));
    }
    let verified = match report.verified {
        None => "no (ask for it with --verify)",
        Some(true) => "yes: digests of all memory are the same",
        Some(false) => "DIFFERENT: memory is not what it was at the source",
    };
    row("verified", verified.to_owned());
    if moved && report.paused {
        row("paused", format!("as it was; there `ferry resume {}` runs it", report.name));
    }
    lines
}

/// In the order in which they happen; verifying is shown only where it was part of the downtime.
fn parts(parts: &DowntimeParts) -> impl Iterator<Item = (&'static str, u64)> {
    let parts = [
        ("pause", parts.pause),
        ("save state", parts.save_state),
        ("final pages", parts.final_pages),
        ("transfer", parts.transfer),
        ("verify", parts.verify),
        ("load", parts.load),
        ("start", parts.start),
    ];
    parts.into_iter().filter(|(part, micros)| *part != "verify" || *micros > 10)
}

fn pass(round: &RoundReport) -> String {
    let (pages, bytes) = (show_count(round.pages), show_bytes(round.bytes));
    format!("{pages:>11} {bytes:>11} {:>11}", show_micros(round.duration_us))
}
