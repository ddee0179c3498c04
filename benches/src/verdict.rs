//! What to read out of the table, in words made from the data.

use engine::strategy::Strategy;

use crate::{
    plan::Workload,
    statistics::Spread,
    summary::{Row, Summary, Verified},
    units,
};

/// The answer: one for each guest.
#[derive(Debug)]
pub struct Verdict {
    /// Of which guest.
    pub workload: Workload,
    /// Which strategy has the least downtime.
    pub headline: String,
    /// What it costs, and what the others cost.
    pub prices: Vec<String>,
}

/// For each guest of which at least one arm was measured.
pub fn of(summary: &Summary<'_>) -> Vec<Verdict> {
    summary.groups().into_iter().filter_map(|(workload, rows)| of_group(workload, &rows)).collect()
}

fn of_group(workload: Workload, all: &[&Row<'_>]) -> Option<Verdict> {
    // The strategies are ranked by our own engine; another stands beside it.
    let rows: Vec<&Row<'_>> = all.iter().copied().filter(|row| row.is_ours()).collect();
    // One clock for all of them: the guest's only where every arm has it.
    let by_guest = rows.iter().all(|row| row.downtime_guest().is_some() || row.measured().next().is_none());
    let downtime = |row: &Row<'_>| if by_guest { row.downtime_guest() } else { row.downtime_engine() };
    let mut ranked: Vec<(&Row<'_>, Spread)> =
        rows.iter().filter_map(|row| Some((*row, downtime(row)?))).collect();
    ranked.sort_by_key(|(_, spread)| spread.median);
    let (&(best, least), others) = ranked.split_first()?;
    let clock = if by_guest { "by the guest's own clock" } else { "by the engine's clock" };
    let headline = match others {
        [] => format!("{} stopped the guest for {}, {clock}.", name(best), units::micros(least.median)),
        [(second, close), ..] if close.min <= least.max => format!(
            "{} ({}) and {} ({}) stopped the guest about equally briefly, {clock}: their runs overlap.",
            name(best),
            units::micros(least.median),
            second.strategy,
            units::micros(close.median),
        ),
        [.., (worst, most)] => format!(
            "{} stopped the guest for the shortest time: {}, {clock}. That is {} of {}'s {}.",
            name(best),
            units::micros(least.median),
            fraction(least.median, most.median),
            worst.strategy,
            units::micros(most.median),
        ),
    };
    let peers = all.iter().filter(|row| !row.is_ours());
    let beside = peers.filter_map(|peer| {
        let ours = rows.iter().find(|row| row.strategy == peer.strategy)?;
        beside(peer, &downtime(peer)?, &downtime(ours)?)
    });
    let prices = ranked.iter().filter_map(|(row, _)| price(row)).chain(beside).collect();
    Some(Verdict { workload, headline, prices })
}

/// Another engine's downtime, in ours.
fn beside(peer: &Row<'_>, theirs: &Spread, ours: &Spread) -> Option<String> {
    let times = theirs.median as f64 / Some(ours.median).filter(|median| *median > 0)? as f64;
    Some(format!(
        "{} stopped the guest for {}: {} times as long as Ferry.",
        peer.label(),
        units::micros(theirs.median),
        units::digits(times)
    ))
}

fn fraction(part: u64, whole: u64) -> String {
    let times = whole as f64 / part.max(1) as f64;
    if times < 2.0 { format!("{} %", (100.0 / times).round()) } else { format!("1/{}", times.round()) }
}

/// What a strategy takes for its downtime.
fn price(row: &Row<'_>) -> Option<String> {
    let total = units::micros(row.total()?.median);
    let sent = row.bytes()?.median as f64 / row.workload.memory_bytes as f64;
    let wrong = match row.verified() {
        Verified::Wrong(_) => " ITS MEMORY WAS WRONG: none of this counts.",
        _ => "",
    };
    let name = name(row);
    let words = match row.strategy {
        Strategy::StopAndCopy => format!(
            "{name} is the simplest and over in {total}, but the guest stands still nearly all of it."
        ),
        Strategy::PreCopy => {
            let rounds = row.rounds()?.median;
            let s = if rounds == 1 { "" } else { "s" };
            format!(
                "{name} pays with {} × the guest's memory on the wire and {total} in {rounds} round{s}, in which the \
                 guest runs and its writes are logged.",
                units::digits(sent)
            )
        }
        // What hybrid pays for its rounds is in the table beside.
        Strategy::PostCopy | Strategy::Hybrid => {
            post_copy_price(row, &row.push().map_or(total, |push| units::micros(push.median)))
        }
    };
    Some(words + wrong)
}

fn post_copy_price(row: &Row<'_>, push: &str) -> String {
    let name = name(row);
    let Some((count, p50, p99)) = row.faults() else {
        return format!("{name} met no page fault; the guest depended on both hosts for {push}.");
    };
    let stall = row
        .longest_stall()
        .map(|stall| format!(", the longest stall {}", units::micros(stall.median)))
        .unwrap_or_default();
    format!(
        "{name} pays afterwards: {} page faults, half of them served within {} and 99 % within {}{stall}; for {push} \
         the guest depends on both hosts, and is lost if either fails.",
        units::count(count.median),
        units::micros(p50.median),
        units::micros(p99.median),
    )
}

/// The strategy, to begin a sentence.
fn name(row: &Row<'_>) -> String {
    let name = row.strategy.name();
    name[..1].to_uppercase() + &name[1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_made_from_the_data() {
        let mut results = crate::report::fixture();
        let verdicts = of(&Summary::of(&results));
        assert_eq!(verdicts.len(), 1);
        assert!(verdicts[0].headline.contains("shortest time"), "{:?}", verdicts[0]);
        assert!(verdicts[0].headline.contains("stop-and-copy"), "{:?}", verdicts[0]);
        assert_eq!(verdicts[0].prices.len(), 3);
        results.runs.iter_mut().for_each(|run| run.downtime_guest_us = Some(1_000));
        let verdicts = of(&Summary::of(&results));
        assert!(verdicts[0].headline.contains("overlap"), "{:?}", verdicts[0]);
    }

    #[test]
    fn another_engine_is_not_ranked_and_stands_beside() {
        let mut results = crate::report::fixture();
        let alone = of(&Summary::of(&results));
        let mut theirs = results.runs.clone();
        theirs.retain(|run| run.strategy == Strategy::PreCopy);
        for run in &mut theirs {
            run.engine = "qemu".into();
            run.downtime_guest_us = run.downtime_guest_us.map(|us| us * 4);
        }
        results.runs.extend(theirs);
        let verdicts = of(&Summary::of(&results));
        assert_eq!(verdicts[0].headline, alone[0].headline);
        assert_eq!(verdicts[0].prices.len(), 4);
        assert!(
            verdicts[0].prices[3].contains("qemu pre-copy") && verdicts[0].prices[3].contains(" 4 times")
        );
    }

    #[test]
    fn wrong_memory_is_not_praised_and_nothing_is_said_of_nothing() {
        let mut results = crate::report::fixture();
        results.runs[2].verified = Some(false);
        let verdicts = of(&Summary::of(&results));
        assert!(verdicts[0].prices.iter().any(|price| price.contains("WRONG")), "{verdicts:?}");
        results.runs.clear();
        assert!(of(&Summary::of(&results)).is_empty());
    }
}
