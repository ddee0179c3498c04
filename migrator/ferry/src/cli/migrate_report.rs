//! A migration's report on a terminal.

use super::units::{show_bytes, show_count, show_micros};
use engine::{
    report::{Outcome, Report},
    timeline::DowntimeParts,
};

/// Rehearsals shorter than this are no news.
const SHOWN_REHEARSAL_US: u64 = 5_000;

/// Its lines.
pub fn lines(report: &Report) -> Vec<String> {
    // Any other end is told in a sentence of its own, on standard error.
    let moved = report.outcome == Outcome::Completed;
    let mut lines: Vec<String> =
        moved.then(|| format!("{} moved by {}", report.name, report.strategy)).into_iter().collect();
    let mut row = |what: &str, value: String| lines.push(format!("  {what:<15} {value}"));
    let (total, setup) = (show_micros(report.total_us), show_micros(report.moved.setup_us));
    row("total time", format!("{total:>11} (setup {setup})"));
    if report.rehearsal_us >= SHOWN_REHEARSAL_US {
        let stood_still = show_micros(report.rehearsal_us);
        row("rehearsed", format!("{stood_still:>11}, the guest stood still before the move"));
    }
    if let Some(downtime) = report.moved.downtime_engine_us {
        row("downtime", format!("{:>11}{}", show_micros(downtime), limit(report, downtime)));
        for (part, micros) in parts(&report.moved.downtime_parts_us) {
            row(&format!("  {part}"), format!("{:>11}", show_micros(micros)));
        }
    }
    let (pages, zero) = (show_count(report.moved.pages_sent), show_count(report.moved.zero_pages));
    row("sent", format!("{:>11}, {pages} pages, {zero} of them zero", show_bytes(report.moved.bytes_sent)));
    if !report.moved.rounds.is_empty() || report.moved.final_pages.is_some() {
        row("", format!("{:>11} {:>11} {:>11} {:>11}", "pages", "sent", "time", "dirtied"));
    }
    for (number, round) in report.moved.rounds.iter().enumerate() {
        row(
            &format!("round {number}"),
            format!(
                "{} {:>11}",
                pass(round.pages, round.bytes, round.duration_us),
                show_count(round.dirtied_pages)
            ),
        );
    }
    if let Some(last) = &report.moved.final_pages {
        row("paused", pass(last.pages, last.bytes, last.duration_us));
    }
    if let Some(push) = &report.moved.push {
        row("push", pass(push.pages, push.bytes, push.duration_us));
        let served = &report.moved.served;
        row("served", format!("{:>11} {:>11}", show_count(served.pages), show_bytes(served.bytes)));
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

fn pass(pages: u64, bytes: u64, duration_us: u64) -> String {
    format!("{:>11} {:>11} {:>11}", show_count(pages), show_bytes(bytes), show_micros(duration_us))
}

/// Whether the limit was kept, and if not, what took longer than expected.
fn limit(report: &Report, downtime_us: u64) -> String {
    let limit_us = report.options.downtime_limit_us;
    if report.downtime_limit_kept != Some(false) {
        return String::new();
    }
    let (limit, over) = (show_micros(limit_us), show_micros(downtime_us.saturating_sub(limit_us)));
    let part = report.longest_over_expectation().unwrap_or("not known why");
    format!(" ({limit} limit missed by {over}: {part})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{options::Options, strategy::Strategy, vm::VmDescription};

    #[test]
    fn entry_19_a_downtime_over_its_limit_says_by_how_much_and_what_took_longer_than_expected() {
        let vm = VmDescription {
            name: "demo".to_owned(),
            kind: "simulated".to_owned(),
            page_count: 1,
            vcpus: 1,
            image: None,
            paused: false,
            machine: Vec::new(),
        };
        let options = Options { downtime_limit: std::time::Duration::from_millis(2), ..Options::default() };
        let mut report = Report::new(Strategy::PreCopy, &vm, &options);
        report.outcome = Outcome::Completed;
        report.moved.downtime_engine_us = Some(3_100);
        report.moved.downtime_parts_us =
            DowntimeParts { pause: 1_500, load: 1_600, ..DowntimeParts::default() };
        report.downtime_limit_kept = Some(false);
        report.downtime_expected_us =
            Some(DowntimeParts { pause: 300, load: 1_500, ..DowntimeParts::default() });
        let lines = lines(&report).join("\n");
        assert!(lines.contains("(2.00 ms limit missed by 1.10 ms: pause)"), "{lines}");
        report.downtime_limit_kept = Some(true);
        assert!(!super::lines(&report).join("\n").contains("limit"));
    }
}
