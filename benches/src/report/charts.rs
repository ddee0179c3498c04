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
        Some((value, format!("{}, run {}: {}{load}", run.strategy, run.pass, unit(value))))
    };
    row.measured().filter_map(dot).collect()
}

fn title(row: &Row<'_>, what: &str, spread: &Spread, unit: fn(u64) -> String) -> String {
    let (median, min, max) = (unit(spread.median), unit(spread.min), unit(spread.max));
    format!("{}, {what}: median {median}, from {min} to {max}", row.strategy)
}

/// Downtime by the guest's clock and by the engine's.
pub fn downtime(summary: &Summary<'_>) -> Bars {
    let blocks = blocks(summary, |row| {
        let guest = row.downtime_guest().map(|spread| ("guest", "", spread));
        let engine = row.downtime_engine().map(|spread| ("engine", " pale", spread));
        let clocks: Vec<_> = guest.into_iter().chain(engine).collect();
        let bar = |&(clock, look, spread): &(&str, &str, Spread)| Bar {
            value: spread.median,
            class: format!("s-{}{look}", row.strategy.name()),
            title: title(row, &format!("downtime by the {clock}'s clock"), &spread, units::micros),
            dots: match clock {
                "guest" => dots(row, |run| run.downtime_guest_us, units::micros),
                _ => dots(row, |run| run.moved.downtime_engine_us, units::micros),
            },
            mark: None,
        };
        let says =
            clocks.iter().map(|(clock, _, spread)| format!("{clock} {}", units::micros(spread.median)));
        (!clocks.is_empty()).then(|| Block {
            heading: None,
            label: row.strategy.name().to_owned(),
            says: says.collect::<Vec<_>>().join(" · "),
            bars: clocks.iter().map(bar).collect(),
        })
    });
    Bars { blocks, tick: units::micros, describes: "Bars of downtime by guest and engine".to_owned() }
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
            label: row.strategy.name().to_owned(),
            says: units::micros(spread.median),
            bars: vec![Bar {
                value: spread.median,
                class: format!("s-{}", row.strategy.name()),
                title: title(row, "total time", &spread, units::micros),
                dots: dots(row, |run| run.total_us, units::micros),
                mark,
            }],
        })
    });
    Bars { blocks, tick: units::micros, describes: "Bars of total migration time".to_owned() }
}

/// Bytes sent, against the guest's memory.
pub fn sent(summary: &Summary<'_>) -> Bars {
    let blocks = blocks(summary, |row| {
        let spread = row.bytes()?;
        let memory = row.workload.memory_bytes;
        let said = dots(row, |run| Some(run.moved.bytes_sent), units::bytes);
        Some(Block {
            heading: None,
            label: row.strategy.name().to_owned(),
            says: units::bytes(spread.median),
            bars: vec![Bar {
                value: mebibytes(spread.median),
                class: format!("s-{}", row.strategy.name()),
                title: title(row, "sent", &spread, units::bytes),
                dots: said.into_iter().map(|(value, title)| (mebibytes(value), title)).collect(),
                mark: Some((mebibytes(memory), format!("the guest's memory: {}", units::bytes(memory)))),
            }],
        })
    });
    Bars { blocks, tick: |mebibytes| format!("{mebibytes} MiB"), describes: "Bars of bytes sent".to_owned() }
}

/// The unit of the byte axis, so that its ticks are round.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// The rounds of one run: pages sent, and pages the guest wrote meanwhile. The last row is what was left for the
/// switchover.
pub fn rounds(run: &Run) -> Bars {
    let bar = |value: u64, look: &str, title: String| Bar {
        value,
        class: format!("s-{}{look}", run.strategy.name()),
        title,
        dots: Vec::new(),
        mark: None,
    };
    let mut blocks: Vec<Block> = Vec::new();
    for (i, round) in run.moved.rounds.iter().enumerate() {
        let (pages, dirtied) = (units::count(round.pages), units::count(round.dirtied_pages));
        let time = units::micros(round.duration_us);
        blocks.push(Block {
            heading: None,
            label: format!("round {i}"),
            says: format!("{pages} sent, {dirtied} written, {time}"),
            bars: vec![
                bar(round.pages, "", format!("round {i} sent {pages} pages in {time}")),
                bar(round.dirtied_pages, " pale", format!("in round {i} the guest wrote {dirtied} pages")),
            ],
        });
    }
    let left = run.moved.pages_sent.saturating_sub(run.moved.rounds.iter().map(|round| round.pages).sum());
    let pages = units::count(left);
    blocks.push(Block {
        heading: None,
        label: "switchover".to_owned(),
        says: format!("{pages} sent, the guest stands still"),
        bars: vec![bar(left, "", format!("the switchover sent {pages} pages"))],
    });
    Bars {
        blocks,
        tick: short_count,
        describes: "Pages sent and written in each round of pre-copy".to_owned(),
    }
}

/// A count as an axis says it: `10k`.
fn short_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", units::digits(count as f64 / 1e3)),
        _ => format!("{}M", units::digits(count as f64 / 1e6)),
    }
}
