//! The table below Ferry's: another engine's rows, each with the ratio to Ferry's row of the same strategy.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use crate::{
    results::{ClientReport, Run},
    statistics::Spread,
    summary::{Row, Summary, Verified},
    units,
};

const WIDTH: u16 = 100;

const HEADER: [&str; 10] = [
    "QEMU's setting",
    "downtime\nby guest",
    "Ferry /\nQEMU",
    "by\nQEMU",
    "by\nclient",
    "total",
    "Ferry /\nQEMU",
    "sent",
    "syncs,\nasked",
    "memory\nright",
];

/// Draws it; nothing if there is nothing to compare with.
pub fn draw(summary: &Summary<'_>) -> Option<String> {
    let peers = summary.peers();
    if peers.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(HEADER);
    for row in peers {
        table.add_row(cells(summary, row));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 0));
        if index > 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if (1..=HEADER.len() - 2).contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Some(table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
}

fn cells<'a>(summary: &Summary<'a>, row: &Row<'a>) -> Vec<String> {
    let none = || "–".to_owned();
    let ratio = |ratio: Option<f64>| {
        ratio.map_or_else(
            none,
            |ratio| if ratio < 0.095 { format!("{ratio:.3}") } else { format!("{ratio:.2}") },
        )
    };
    let figure = |of: &dyn Fn(&Run) -> Option<u64>| Spread::of(row.measured().filter_map(of));
    let syncs = figure(&|run| run.peer.as_ref()?.dirty_sync_count);
    let requests = figure(&|run| run.peer.as_ref()?.postcopy_requests.filter(|&count| count > 0));
    let mut looks = syncs.map_or_else(none, |spread| spread.median.to_string());
    if let Some(requests) = requests {
        looks = format!("{looks}\n{}", units::count(requests.median));
    }
    vec![
        name(summary, row),
        row.downtime_guest().map_or_else(none, |spread| time(&spread)),
        ratio(summary.ratio(row, Row::downtime_guest)),
        row.downtime_engine().map_or_else(none, |spread| time(&spread)),
        row.downtime_client().map_or_else(none, |spread| time(&spread)),
        row.total().map_or_else(none, |spread| time(&spread)),
        ratio(summary.ratio(row, Row::total)),
        row.bytes().map_or_else(none, |spread| units::bytes(spread.median)),
        looks,
        verdict(row),
    ]
}

fn name(summary: &Summary<'_>, row: &Row<'_>) -> String {
    let setting = row.engine.setting.as_deref().unwrap_or(row.strategy.name());
    match summary.name_of(&row.workload) {
        Some(workload) => format!("{setting}\n{workload}"),
        None => setting.to_owned(),
    }
}

fn time(spread: &Spread) -> String {
    let median = units::micros(spread.median);
    if spread.is_point() { median } else { format!("{median}\n{}", units::micros_range(spread)) }
}

/// What the guest found: QEMU itself compares nothing.
fn verdict(row: &Row<'_>) -> String {
    let runs = row.runs.len();
    let broken = row.runs.iter().filter(|run| !run.is_measured()).count();
    match row.verified() {
        _ if broken > 0 => format!("{broken}/{runs} FAILED"),
        Verified::All => format!("yes {runs}/{runs}"),
        Verified::Wrong(wrong) => format!("NO: {wrong}/{runs}"),
        Verified::NotAll => "not asked".to_owned(),
    }
}

/// What stands below it; what went wrong is said with Ferry's own.
pub fn notes(summary: &Summary<'_>) -> Option<String> {
    let peers = summary.peers();
    let version = peers.first()?.engine.version.as_deref();
    let differences = differences(version.unwrap_or("of unknown version"));
    let runs = peers.iter().flat_map(|row| &row.runs);
    let clients: Vec<_> = runs.filter_map(|run| run.client.as_ref()).collect();
    if clients.is_empty() {
        return Some(differences);
    }
    let sum = |of: fn(&ClientReport) -> u64| units::count(clients.iter().map(|client| of(client)).sum());
    Some(format!(
        "{differences} Its clients: of {} requests {} were lost, of {} datagrams {}; {} connections broke, {} segments \
         were sent again.",
        sum(|client| client.requests_sent),
        sum(|client| client.requests_lost),
        sum(|client| client.udp.map_or(0, |udp| udp.sent)),
        sum(|client| client.udp.map_or(0, |udp| udp.lost)),
        sum(|client| client.connections_reset),
        sum(|client| client.retransmissions),
    ))
}

/// How to read the ratios of this table; those of the report are the other way round.
pub const RATIOS: &str = "Ferry / QEMU: below 1, a ratio is in Ferry's favour.";

/// What must be known to read the ratios, in the words of the table and of the report.
pub fn differences(version: &str) -> String {
    format!(
        "QEMU {version} moves the same guest with the same memory and workload over the same link, in turn with Ferry. \
         Engines take turns at being the first. Where the harness makes the network, the links of both have the same TCP \
         congestion control; on the host itself QEMU's is the host's, and Ferry asks for one that does not pace itself on \
         short ways. What differs. Threads: where the host permits it, those of Ferry that do little and are waited for \
         run in real time (SCHED_FIFO); QEMU has no such threads. Network card: QEMU's runs in the kernel (vhost) where \
         the host has /dev/vhost-net, and in QEMU where it has not; Ferry's always runs in Ferry. Virtual hardware: its machine is a microvm with virtio-mmio \
         and with PIT, PIC, RTC, ISA serial port and network card of its own; Ferry's is one of ACPI's reduced kind, and \
         each saves and loads the state of its own devices. Clock: both guests read the time-stamp counter, but what QEMU \
         tells of itself (downtime, total) is by its own clock in whole milliseconds, its total time here is by the time of \
         day that its events carry, and Ferry's by a monotonic clock; clients are timed alike. Setting: its memory is allocated beforehand on both sides (not at a destination of post-copy), its link's bandwidth is not \
         limited (its default is 128 MiB/s), \"pre-copy\" plans for its default of 300 ms, \"pre-copy-limit\" and \
         \"multifd\" (2 channels) for the limit that Ferry gets; stop-and-copy is a pause, a migration and a `cont` by \
         this harness. Downtime by guest is measured by the same counter and the same rule as Ferry's; QEMU's own \
         figure covers less. Not measured in QEMU's runs: the parts of the downtime, rounds one by one, page faults, \
         blocktime, carried frames. Syncs are its looks for written pages (one more than its \
         rounds), asked are the pages that its destination asked for. QEMU compares no memory: the guest's own check \
         afterwards does, registers included."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Engine, PeerFigures, Results, RunOutcome};

    /// Ferry's fixture, and what QEMU would have made of its first pass: ten times the downtime.
    fn with_peer() -> Results {
        let mut results = crate::report::fixture();
        let mut theirs: Vec<Run> = results.runs.iter().filter(|run| run.pass == 1).cloned().collect();
        for run in &mut theirs {
            run.engine = Engine::qemu("10.0.2", run.strategy.name());
            run.downtime_guest_us = Some(1_000_000);
            run.peer = Some(PeerFigures { dirty_sync_count: Some(3), ..PeerFigures::default() });
        }
        results.runs.extend(theirs);
        results
    }

    #[test]
    fn peers_stand_apart_with_their_ratio() {
        let results = with_peer();
        let summary = Summary::of(&results);
        let peers = summary.peers();
        assert_eq!((summary.rows.len(), peers.len()), (6, 3));
        let ours = summary.rows[0].downtime_guest().unwrap().median as f64;
        let ratio = summary.ratio(peers[0], Row::downtime_guest).unwrap();
        assert!((ratio - ours / 1_000_000.0).abs() < 1e-9, "{ratio}");
        let table = draw(&summary).unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert!(
            table.contains(" 1 s") && table.contains("post-copy") && table.contains("yes 1/1"),
            "{table}"
        );
        assert!(notes(&summary).unwrap().contains("10.0.2"));
        // Ferry's own table is what it was.
        assert_eq!(crate::table::draw(&summary), crate::table::draw(&Summary::of(&crate::report::fixture())));
    }

    #[test]
    fn a_peer_that_fails_is_shown_and_fails_nobody_else() {
        let mut results = with_peer();
        let last = results.runs.last_mut().unwrap();
        last.outcome = RunOutcome::Failed;
        last.verified = None;
        last.error = Some("the destination is gone: QEMU's destination ended (signal: 9)".to_owned());
        assert!(!results.any_failed());
        let summary = Summary::of(&results);
        assert!(draw(&summary).unwrap().contains("1/1 FAILED"));
        assert!(crate::table::notes(&summary).iter().any(|note| note.contains("signal: 9")));
        assert_eq!(draw(&Summary::of(&crate::report::fixture())), None);
    }
}
