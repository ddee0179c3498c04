//! When to stop making rounds: a pure function of what has been recorded.
//!
//! The expected downtime is the fixed part of a switchover, which was measured, and the time the
//! pages dirty now would take at the bandwidth that was measured. A rule that forgets the fixed part
//! misses its limit; one that uses up its limit although another round would shorten the downtime
//! keeps the guest waiting without need. So:
//!
//! - above the limit: another round, as long as rounds make progress and may be made;
//! - below it: another round only while that still pays, which ends once the dirty pages cost little
//!   beside the fixed part, or no longer become fewer.

use std::time::Duration;

use thiserror::Error;

use crate::{pages::PAGE_SIZE, timeline::Round};

/// What pre-copy must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest downtime the user accepts.
    pub downtime: Duration,
    /// The most rounds.
    pub max_rounds: u32,
    /// What a switchover takes without any page.
    pub fixed: Duration,
}

/// What to do after a round.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Send what is dirty, while the guest runs.
    NextRound,
    /// Pause and send what is dirty.
    Switchover,
    /// The limit is out of reach.
    GiveUp(OutOfReach),
}

/// Why the limit is out of reach.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum OutOfReach {
    /// Not even a switchover without any page keeps to it.
    #[error(
        "a switchover takes {:.1} ms here without any page, by a rehearsal just now, and the downtime limit is \
         {:.1} ms: raise --downtime-limit, or look at what keeps the hosts busy",
        ms(fixed),
        ms(limit)
    )]
    Fixed {
        /// What a switchover takes without any page.
        fixed: Duration,
        /// The downtime the user accepts.
        limit: Duration,
    },
    /// The guest writes too fast, or too few rounds are allowed.
    #[error(
        "pre-copy does not converge: after {rounds} rounds the guest dirties {dirty_pages_per_second:.0} pages/s \
         ({:.0} Mbit/s) while the link carries {:.0} Mbit/s, so the downtime would be {:.1} ms and the limit is \
         {:.1} ms. Raise --downtime-limit, --max-rounds or the bandwidth, or use post-copy",
        dirty_pages_per_second * PAGE_SIZE as f64 * 8e-6, bytes_per_second * 8e-6, ms(expected), ms(limit)
    )]
    Diverging {
        /// Rounds made.
        rounds: usize,
        /// How fast the guest writes.
        dirty_pages_per_second: f64,
        /// How fast the link is.
        bytes_per_second: f64,
        /// The downtime if the guest were paused now.
        expected: Duration,
        /// The downtime the user accepts.
        limit: Duration,
    },
}

fn ms(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Rounds in a row without progress after which a guest above the limit is given up.
const PATIENCE: usize = 5;
/// A round made progress if it left at most this much of what the one before left.
const PROGRESS: f64 = 0.9;
/// Dirty pages below this share of the fixed part are not worth another round.
const WORTH_A_ROUND: f64 = 0.05;

/// The downtime to expect if the guest were paused with `dirty_pages` dirty.
pub fn expected_downtime(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Duration {
    limits.fixed + transfer_time(rounds, dirty_pages)
}

/// What to do now that the last of `rounds` is over and `dirty_pages` are dirty.
pub fn decide(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Decision {
    if limits.fixed > limits.downtime {
        return Decision::GiveUp(OutOfReach::Fixed { fixed: limits.fixed, limit: limits.downtime });
    }
    let transfer = transfer_time(rounds, dirty_pages);
    let expected = limits.fixed + transfer;
    let may_go_on = rounds.len() < limits.max_rounds as usize;
    if expected <= limits.downtime {
        let is_little = transfer <= limits.fixed.mul_f64(WORTH_A_ROUND);
        let pays = !is_little && rounds_without_progress(rounds) < 2;
        return if may_go_on && pays { Decision::NextRound } else { Decision::Switchover };
    }
    if may_go_on && rounds_without_progress(rounds) < PATIENCE {
        return Decision::NextRound;
    }
    Decision::GiveUp(OutOfReach::Diverging {
        rounds: rounds.len(),
        dirty_pages_per_second: rounds.last().map_or(0.0, Round::dirty_rate),
        bytes_per_second: bandwidth(rounds),
        expected,
        limit: limits.downtime,
    })
}

/// Bytes a second, by the round that sent most: short rounds measure the socket's buffer.
fn bandwidth(rounds: &[Round]) -> f64 {
    rounds.iter().max_by_key(|round| round.sent.bytes).map_or(f64::INFINITY, Round::bandwidth).max(1.0)
}

/// How long `dirty_pages` take at the bandwidth that was measured.
pub(crate) fn transfer_time(rounds: &[Round], dirty_pages: u64) -> Duration {
    let bytes = dirty_pages as f64 * PAGE_SIZE as f64;
    Duration::try_from_secs_f64(bytes / bandwidth(rounds)).unwrap_or(Duration::MAX / 2)
}

/// How many of the last rounds, in a row, did not leave fewer dirty pages than the best before them.
fn rounds_without_progress(rounds: &[Round]) -> usize {
    let mut best = f64::INFINITY;
    let mut stalled = 0;
    for round in rounds {
        let left = round.dirtied as f64;
        stalled = if left <= best * PROGRESS { 0 } else { stalled + 1 };
        best = best.min(left);
    }
    stalled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Sent;

    const LIMITS: Limits =
        Limits { downtime: Duration::from_millis(50), max_rounds: 30, fixed: Duration::from_micros(500) };

    /// A round over a link of 4 GB/s by a guest that writes `rate` pages a second.
    fn round(pages: u64, rate: f64) -> Round {
        let bytes = pages * PAGE_SIZE as u64;
        let duration = Duration::from_secs_f64(bytes as f64 / 4e9);
        let dirtied = (rate * duration.as_secs_f64()) as u64;
        Round { sent: Sent { pages, zero_pages: 0, bytes }, duration, dirtied }
    }

    /// Makes rounds until the decision ends them.
    fn play(memory_pages: u64, rate: f64, working_set: u64, limits: &Limits) -> (usize, u64, Decision) {
        let mut rounds = Vec::new();
        let mut dirty = memory_pages;
        loop {
            let mut next = round(dirty, rate);
            next.dirtied = next.dirtied.min(working_set);
            dirty = next.dirtied;
            rounds.push(next);
            match decide(&rounds, dirty, limits) {
                Decision::NextRound => {}
                decision => return (rounds.len(), dirty, decision),
            }
        }
    }

    #[test]
    fn an_idle_guest_switches_after_one_round() {
        assert_eq!(play(131_072, 0.0, 0, &LIMITS), (1, 0, Decision::Switchover));
    }

    #[test]
    fn a_guest_below_the_limit_goes_on_while_that_pays() {
        let (rounds, dirty, decision) = play(131_072, 50_000.0, 16_384, &LIMITS);
        assert_eq!(decision, Decision::Switchover);
        assert!(rounds >= 3 && dirty < 50, "{rounds} rounds, {dirty} dirty");
    }

    #[test]
    fn a_guest_that_writes_faster_than_the_link_is_given_up() {
        let (rounds, _, decision) = play(131_072, 2e6, 131_072, &LIMITS);
        let Decision::GiveUp(reason) = decision else { panic!("{decision:?}") };
        assert!(rounds <= 8);
        assert!(reason.to_string().contains("Raise --downtime-limit"), "{reason}");
    }

    #[test]
    fn a_working_set_that_fits_the_limit_does_not_wait_for_convergence() {
        // 4096 pages, rewritten faster than sent: 4 ms of downtime is all one can have.
        let (rounds, dirty, decision) = play(131_072, 2e6, 4096, &LIMITS);
        assert_eq!(decision, Decision::Switchover);
        assert!(rounds <= 16 && dirty <= 4096, "{rounds} rounds, {dirty} dirty");
    }

    #[test]
    fn the_fixed_part_counts() {
        let limits = Limits { downtime: Duration::from_micros(400), ..LIMITS };
        let (_, _, decision) = play(131_072, 0.0, 0, &limits);
        assert!(matches!(decision, Decision::GiveUp(OutOfReach::Fixed { .. })));
    }

    #[test]
    fn the_most_rounds_are_kept_to() {
        let limits = Limits { max_rounds: 1, downtime: Duration::from_millis(100), ..LIMITS };
        assert!(matches!(play(131_072, 500_000.0, 131_072, &limits), (1, _, Decision::Switchover)));
        let limits = Limits { max_rounds: 1, downtime: Duration::from_millis(1), ..LIMITS };
        assert!(matches!(play(131_072, 500_000.0, 131_072, &limits), (1, _, Decision::GiveUp(_))));
    }
}
