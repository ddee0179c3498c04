//! A migration's report on a terminal.

use super::units::{show_bytes, show_count, show_micros};
use crate::report::{Outcome, Report, RoundReport};

/// Prints it.
pub fn print(report: &Report) {
    for line in lines(report) {
        println!("{line}");
    }
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![headline(report)];
    let mut row = |what: &str, value: String| lines.push(format!("  {what:<18} {value}"));
    row("total time", format!("{} (setup {})", show_micros(report.total_us), show_micros(report.setup_us)));
    if let Some(downtime) = report.downtime_engine_us {
        row("downtime", show_micros(downtime));
        let parts = &report.downtime_parts_us;
        let parts = [
            ("pause", parts.pause),
            ("save state", parts.save_state),
            ("final pages", parts.final_pages),
            ("transfer", parts.transfer),
            ("verify", parts.verify),
            ("load", parts.load),
            ("start", parts.start),
        ];
        for (part, micros) in parts.into_iter().filter(|(part, micros)| *micros > 0 || *part != "verify") {
            row(&format!("  {part}"), format!("{:>10}", show_micros(micros)));
        }
    }
    let zero = show_count(report.zero_pages);
    row(
        "sent",
        format!(
            "{}, {} pages, {zero} of them zero",
            show_bytes(report.bytes_sent),
            show_count(report.pages_sent)
        ),
    );
    for (number, round) in report.rounds.iter().enumerate() {
        row(
            &format!("round {number}"),
            format!("{}, {} pages written meanwhile", pass(round), show_count(round.dirtied_pages)),
        );
    }
    if let Some(push) = &report.push {
        row("push", pass(push));
    }
    let faults = &report.page_faults;
    if faults.count > 0 {
        row(
            "page faults",
            format!(
                "{}, half within {}, 99 of 100 within {}, longest {}",
                show_count(faults.count),
                show_micros(faults.p50_us),
                show_micros(faults.p99_us),
                show_micros(faults.max_us)
            ),
        );
    }
    let verified = match report.verified {
        None => "no (ask for it with --verify)",
        Some(true) => "yes: digests of all memory are the same",
        Some(false) => "DIFFERENT: memory is not what it was at the source",
    };
    row("verified", verified.to_owned());
    lines
}

fn headline(report: &Report) -> String {
    let (name, strategy) = (&report.name, report.strategy);
    match report.outcome {
        Outcome::Completed => format!("{name} moved by {strategy}"),
        Outcome::Failed => format!("{name} was not moved by {strategy}"),
        Outcome::Cancelled => format!("{name} was not moved by {strategy}: called off"),
        Outcome::Unknown => format!("{name}: it is not known whether it moved by {strategy}"),
        Outcome::Interrupted => format!("{name}: interrupted while it moved by {strategy}"),
    }
}

fn pass(round: &RoundReport) -> String {
    format!(
        "{:>9} pages, {:>9} in {:>9}",
        show_count(round.pages),
        show_bytes(round.bytes),
        show_micros(round.duration_us)
    )
}
