//! The one table, for a terminal of 100 columns.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use crate::{
    results::{ClientReport, UdpReport},
    statistics::Spread,
    summary::{Row, Summary, Verified},
    units,
};

const WIDTH: u16 = 100;

/// Draws it.
pub fn draw(summary: &Summary<'_>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    let has_client = summary.rows.iter().any(|row| row.downtime_client().is_some());
    let header = header(has_client);
    let columns = header.len();
    table.set_header(header);
    let groups = summary.groups();
    for (workload, rows) in &groups {
        if let Some(name) = summary.name_of(workload) {
            table.add_row([name]);
        }
        // Other engines have a table of their own.
        for row in rows.iter().filter(|row| row.is_ours()) {
            table.add_row(cells(row, has_client));
        }
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index > 0), 0));
        // What does not fit is broken in the names of guests, never in a figure.
        if index > 0 || groups.len() < 2 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if (1..=columns - 2).contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The client's clock has a column only where there is a client.
fn header(has_client: bool) -> Vec<&'static str> {
    let client = has_client.then_some("by\nclient");
    let downtimes = ["strategy", "downtime\nby guest", "by\nengine"];
    let rest = ["total", "sent", "of\nlimit", "rounds", "faults\np50 / p99", "verified"];
    downtimes.into_iter().chain(client).chain(rest).collect()
}

fn cells(row: &Row<'_>, has_client: bool) -> Vec<String> {
    let none = || "–".to_owned();
    let faults = row.faults().map_or_else(none, |(count, p50, p99)| {
        format!("{}\n{}", units::count(count.median), units::micros_pair(p50.median, p99.median))
    });
    let client = has_client.then(|| row.downtime_client().map_or_else(none, |spread| time(&spread)));
    let downtimes = [
        row.label(),
        row.downtime_guest().map_or_else(none, |spread| time(&spread)),
        row.downtime_engine().map_or_else(none, |spread| time(&spread)),
    ];
    let rest = [
        row.total().map_or_else(none, |spread| time(&spread)),
        row.bytes().map_or_else(none, |spread| units::bytes(spread.median)),
        row.percent_of_limit().map_or_else(none, |spread| format!("{} %", spread.median)),
        row.rounds().map_or_else(none, |spread| rounds(&spread)),
        faults,
        verdict(row),
    ];
    downtimes.into_iter().chain(client).chain(rest).collect()
}

/// The median, and below it from where to where it went.
fn time(spread: &Spread) -> String {
    let median = units::micros(spread.median);
    if spread.is_point() { median } else { format!("{median}\n{}", units::micros_range(spread)) }
}

fn rounds(spread: &Spread) -> String {
    match spread.is_point() {
        true => spread.median.to_string(),
        false => format!("{}\n{}–{}", spread.median, spread.min, spread.max),
    }
}

/// Whether memory was right, as a table says it.
pub fn verdict(row: &Row<'_>) -> String {
    let runs = row.runs.len();
    match row.verified() {
        _ if row.is_skipped() => "not run".to_owned(),
        Verified::All if row.failed() == 0 => format!("yes {runs}/{runs}"),
        Verified::Wrong(wrong) => format!("NO: {wrong}/{runs} wrong"),
        _ if row.failed() > 0 => format!("{}/{runs} FAILED", row.failed()),
        _ => "not asked".to_owned(),
    }
}

/// What stands below the table: the limit, what went wrong, and whether to trust the figures.
pub fn notes(summary: &Summary<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(limit) = summary.limit() {
        let range = match limit.is_point() {
            true => String::new(),
            false => format!(", from {} to {}", units::speed(limit.min), units::speed(limit.max)),
        };
        let memory = summary.rows[0].workload.memory_bytes;
        let moved = match summary.rows.iter().all(|row| row.workload.memory_bytes == memory) {
            true => {
                let micros = memory as f64 / limit.median.max(1) as f64 * 1e6;
                format!(
                    "{} of populated memory in {}, at ",
                    units::bytes(memory),
                    units::micros(micros as u64)
                )
            }
            false => "populated memory at ".to_owned(),
        };
        notes.push(format!(
            "Limit: a plain TCP sender and receiver moved {moved}{}{range}, in the same passes. \"Of limit\" is guest \
             memory moved per second while pages moved, in hundredths of that.",
            units::speed(limit.median),
        ));
    }
    notes.extend(client_note(summary));
    for row in &summary.rows {
        if let Some(problem) = row.problem() {
            let name = summary.name_of(&row.workload).map(|name| format!(" ({name})")).unwrap_or_default();
            notes.push(format!("{}{name}: {problem}", row.label()));
        }
    }
    let overloaded = summary.overloaded();
    if overloaded > 0 {
        let runs: usize = summary.rows.iter().map(|row| row.runs.len()).sum();
        notes.push(format!(
            "WARNING: the host was busy with other work, or its processors were taken away, in {overloaded} of {runs} \
             runs (\"host_overloaded\" in the results). Their times are too long and their spread too wide: measure again on a quiet host."
        ));
    }
    if !summary.complete {
        notes.push("INCOMPLETE: not all planned runs were made.".to_owned());
    }
    notes
}

/// What became of the client's requests and connections.
fn client_note(summary: &Summary<'_>) -> Option<String> {
    let clients = || {
        summary
            .rows
            .iter()
            .filter(|row| row.is_ours())
            .flat_map(|row| &row.runs)
            .filter_map(|run| run.client.as_ref())
    };
    let sum = |of: fn(&ClientReport) -> u64| -> u64 { clients().map(of).sum() };
    clients().next()?;
    let datagrams =
        |of: fn(&UdpReport) -> u64| -> u64 { clients().filter_map(|c| c.udp.as_ref()).map(of).sum() };
    let wrong = sum(|client| client.stream_errors.unwrap_or(0));
    Some(format!(
        "Client: of {} requests on a fixed schedule, over one connection a run, {} were lost, and of {} datagrams {}; \
         {} connections broke, {} segments were sent again, {} bytes of a checked stream were wrong. \"By client\" is \
         the longest time between two responses, wherever in the migration; \"switchover_client_us\" in the results is the \
         one at the switchover.",
        units::count(sum(|client| client.requests_sent)),
        units::count(sum(|client| client.requests_lost)),
        units::count(datagrams(|udp| udp.sent)),
        units::count(datagrams(|udp| udp.lost)),
        units::count(sum(|client| client.connections_reset)),
        units::count(sum(|client| client.retransmissions)),
        units::count(wrong),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_hundred_columns_and_says_all() {
        let results = crate::report::fixture();
        let summary = Summary::of(&results);
        let table = draw(&summary);
        let widest = table.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?}\n{table}");
        for words in ["stop-and-copy", "pre-copy", "post-copy", "by guest", "engine", "yes 3/3", "MiB", " %"]
        {
            assert!(table.contains(words), "no {words:?} in\n{table}");
        }
    }

    #[test]
    fn the_third_clock_has_a_column_where_there_is_a_client() {
        let mut results = crate::report::fixture();
        assert!(!draw(&Summary::of(&results)).contains("client"));
        for (i, run) in results.runs.iter_mut().enumerate() {
            run.client = Some(crate::report::client(207_000 + 1_000 * i as u64));
        }
        let summary = Summary::of(&results);
        let table = draw(&summary);
        assert!(table.contains("client") && table.contains("210 ms"), "{table}");
        let widest = table.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?}\n{table}");
        let note = notes(&summary).into_iter().find(|note| note.starts_with("Client: ")).unwrap();
        assert!(note.contains("9\u{202f}000 requests") && note.contains("18 were lost"), "{note}");
    }

    #[test]
    fn arms_of_several_guests_are_told_apart() {
        let mut results = crate::report::fixture();
        let mut more = results.runs.clone();
        more.iter_mut().for_each(|run| run.workload.memory_bytes *= 2);
        results.runs.extend(more);
        let table = draw(&Summary::of(&results));
        assert!(table.contains("512 MiB") && table.contains("1 GiB"), "{table}");
    }

    #[test]
    fn what_was_not_run_says_why() {
        let mut results = crate::report::fixture();
        for run in results.runs.iter_mut().filter(|run| run.strategy.name() == "post-copy") {
            run.outcome = crate::results::RunOutcome::Skipped;
            run.verified = None;
            run.error = Some("userfaultfd is not permitted: sysctl vm.unprivileged_userfaultfd=1".to_owned());
        }
        let summary = Summary::of(&results);
        assert!(draw(&summary).contains("not run"));
        assert!(notes(&summary).iter().any(|note| note.starts_with("post-copy: userfaultfd")));
    }
}
