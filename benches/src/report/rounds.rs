//! The rounds of pre-copy: what the link takes against what the guest writes.

use engine::report::RoundReport;

use super::bars::{Bar, Bars, Block};
use crate::{results::Run, units};

/// The rounds of one run: pages sent, and pages that were left since the guest wrote them meanwhile. The last row is
/// what was left for the switchover.
pub fn bars(run: &Run) -> Bars {
    let bar = |value: u64, look: &str, title: String| Bar {
        value,
        class: format!("s-{}{look}", run.strategy.name()),
        title,
        dots: Vec::new(),
        mark: None,
        name: None,
    };
    let mut blocks: Vec<Block> = Vec::new();
    for (i, round) in run.moved.rounds().iter().enumerate() {
        let (pages, dirtied) = (units::count(round.pages), units::count(round.dirtied_pages));
        let time = units::micros(round.duration_us);
        blocks.push(Block {
            heading: None,
            label: format!("round {i}"),
            says: format!("{pages} sent, {dirtied} left, {time}"),
            bars: vec![
                bar(round.pages, "", format!("round {i} sent {pages} pages in {time}")),
                bar(
                    round.dirtied_pages,
                    " pale",
                    format!("{dirtied} pages were left after round {i}: the guest wrote them meanwhile"),
                ),
            ],
        });
    }
    let left = run
        .moved
        .pages_sent
        .unwrap_or(0)
        .saturating_sub(run.moved.rounds().iter().map(|round| round.pages).sum());
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
        named: false,
    }
}

/// Pages a second that went, against pages a second that the guest wrote: which of them wins. Nothing of rounds that
/// took no time.
pub fn race(run: &Run) -> Option<String> {
    let sum = |of: fn(&RoundReport) -> u64| run.moved.rounds().iter().map(of).sum::<u64>();
    let micros = sum(|round| round.duration_us);
    let rate =
        |pages: u64| (u128::from(pages) * 1_000_000).checked_div(u128::from(micros)).map(|rate| rate as u64);
    let (sent, written) = (rate(sum(|round| round.pages))?, rate(sum(|round| round.dirtied_pages))?);
    let bandwidth = rate(sum(|round| round.bytes))?;
    let wins = match written {
        0 => "the guest wrote nothing".to_owned(),
        written if sent > written => format!(
            "the guest wrote {} pages a second, so each round leaves about 1/{} of the one before",
            units::count(written),
            units::digits(sent as f64 / written as f64)
        ),
        written => format!(
            "the guest wrote {} pages a second: rounds alone would not have come to an end",
            units::count(written)
        ),
    };
    Some(format!("{} pages a second went ({}), and {wins}.", units::count(sent), units::speed(bandwidth)))
}

/// A count as an axis says it: `10k`.
fn short_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{}k", units::digits(count as f64 / 1e3)),
        _ => format!("{}M", units::digits(count as f64 / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let results = crate::report::fixture();
        results.runs.into_iter().find(|run| !run.moved.rounds().is_empty()).unwrap()
    }

    #[test]
    fn each_round_says_what_it_left() {
        let run = run();
        let picture = bars(&run).draw().into_string();
        assert_eq!(picture.matches(" left, ").count(), run.moved.rounds().len());
        assert!(picture.contains("the guest stands still"));
    }

    #[test]
    fn the_faster_of_link_and_guest_is_named() {
        let mut run = run();
        assert!(race(&run).unwrap().contains("leaves about 1/"), "{:?}", race(&run));
        run.moved.rounds.iter_mut().flatten().for_each(|round| round.dirtied_pages = round.pages + 1);
        assert!(race(&run).unwrap().contains("not have come to an end"));
        run.moved.rounds.iter_mut().flatten().for_each(|round| round.dirtied_pages = 0);
        assert!(race(&run).unwrap().contains("wrote nothing"));
        run.moved.rounds = None;
        assert_eq!(race(&run), None);
    }
}
