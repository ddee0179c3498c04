//! The charts that are bars: downtime, total time, bytes, rounds.

use super::bars::{Bar, Bars, Block};
use crate::{
    results::Run,
    statistics::Spread,
    summary::{Row, Summary},
    units,
};

/// Goes over all arms that were measured; an arm's block has a heading where another guest begins.
fn blocks(summary: &Summary<'_>, block: impl Fn(&Row<'_>) -> Option<Block>) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (workload, rows) in summary.groups() {
        let mut heading = summary.name_of(&workload);
        for row in rows {
            if let Some(block) = block(row) {
                blocks.push(Block { heading: heading.take(), ..block });
            }
        }
    }
    blocks
}

fn dots(row: &Row<'_>, of: impl Fn(&Run) -> Option<u64>, unit: fn(u64) -> String) -> Vec<(u64, String)> {
    let dot = |run: &Run| {
        let value = of(run)?;
        let load = if run.host_overloaded { ", on a busy host" } else { "" };
        Some((value, format!("{}, run {}: {}{load}", row.label(), run.pass, unit(value))))
    };
    row.measured().filter_map(dot).collect()
}

fn title(row: &Row<'_>, what: &str, spread: &Spread, unit: fn(u64) -> String) -> String {
    let (median, min, max) = (unit(spread.median), unit(spread.min), unit(spread.max));
    format!("{}, {what}: median {median}, from {min} to {max}", row.label())
}

/// Whose it is, what its bars look like, and what it says of a run.
type Clock = (&'static str, &'static str, fn(&Run) -> Option<u64>);

/// Downtime by the three clocks.
pub fn downtime(summary: &Summary<'_>) -> Bars {
    let blocks = blocks(summary, |row| {
        let clocks: [Clock; 3] = [
            ("guest", "", |run| run.downtime_guest_us),
            ("engine", " pale", |run| run.moved.downtime_engine_us),
            ("client", " hollow", |run| run.client.as_ref()?.switchover_client_us),
        ];
        let bar = |(clock, look, of): Clock| {
            let spread = Spread::of(row.measured().filter_map(of))?;
            Some(Bar {
                value: spread.median,
                class: format!("s-{}{look}", row.strategy.name()),
                title: title(row, &format!("downtime by the {clock}'s clock"), &spread, units::micros),
                dots: dots(row, of, units::micros),
                mark: None,
                name: Some((clock, units::micros(spread.median))),
            })
        };
        let bars: Vec<Bar> = clocks.into_iter().filter_map(bar).collect();
        (!bars.is_empty()).then(|| Block { heading: None, label: row.label(), says: String::new(), bars })
    });
    Bars {
        blocks,
        tick: units::micros,
        describes: "Bars of downtime by guest, engine and client".to_owned(),
        named: true,
    }
}

/// Total time, against what plain TCP would take.
pub fn total(summary: &Summary<'_>) -> Bars {
    let blocks = blocks(summary, |row| {
        let spread = row.total()?;
        let limit = Spread::of(row.measured().filter_map(|run| run.limit_bytes_per_second));
        let mark = limit.map(|limit| {
            let micros = (row.workload.memory_bytes as f64 / limit.median.max(1) as f64 * 1e6) as u64;
            (micros, format!("plain TCP moves that memory in {}", units::micros(micros)))
        });
        Some(Block {
            heading: None,
            label: row.label(),
            says: units::micros(spread.median),
            bars: vec![Bar {
                value: spread.median,
                class: format!("s-{}", row.strategy.name()),
                title: title(row, "total time", &spread, units::micros),
                dots: dots(row, |run| run.total_us, units::micros),
                mark,
                name: None,
            }],
        })
    });
    Bars { blocks, tick: units::micros, describes: "Bars of total migration time".to_owned(), named: false }
}

/// Bytes sent, against the guest's memory.
pub fn sent(summary: &Summary<'_>) -> Bars {
    let blocks = blocks(summary, |row| {
        let spread = row.bytes()?;
        let memory = row.workload.memory_bytes;
        let said = dots(row, |run| run.moved.bytes_sent, units::bytes);
        Some(Block {
            heading: None,
            label: row.label(),
            says: units::bytes(spread.median),
            bars: vec![Bar {
                value: mebibytes(spread.median),
                class: format!("s-{}", row.strategy.name()),
                title: title(row, "sent", &spread, units::bytes),
                dots: said.into_iter().map(|(value, title)| (mebibytes(value), title)).collect(),
                mark: Some((mebibytes(memory), format!("the guest's memory: {}", units::bytes(memory)))),
                name: None,
            }],
        })
    });
    Bars {
        blocks,
        tick: |mebibytes| format!("{mebibytes} MiB"),
        describes: "Bars of bytes sent".to_owned(),
        named: false,
    }
}

/// The unit of the byte axis, so that its ticks are round.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
