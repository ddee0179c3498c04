//! When to stop making rounds: a pure function of what has been recorded.
//!
//! The expected downtime is the fixed part of a switchover, which was measured, and the time the
//! pages dirty now would take at the bandwidth that was measured. A rule that forgets the fixed part
//! misses its limit; one that uses up its limit although another round would shorten the downtime
//! keeps the guest waiting without need. So:
//!
//! - above the limit: another round, as long as rounds make progress and may be made, and it is not yet clear that they
//!   lead nowhere;
//! - below it: another round only while that still pays, which ends once the dirty pages cost little
//!   beside the fixed part, or no longer become fewer.

use std::{fmt, time::Duration};

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
    /// Pages of the guest.
    pub memory_pages: u64,
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
        "the downtime limit of {:.1} ms cannot be kept: a switchover takes {:.1} ms without any page, as was measured \
         before anything was sent. {}",
        ms(limit),
        ms(fixed),
        remedy(fixed, travel)
    )]
    Fixed {
        /// What a switchover takes without any page.
        fixed: Duration,
        /// How much of that is the way there and back.
        travel: Duration,
        /// The downtime the user accepts.
        limit: Duration,
    },
    /// The guest writes too fast.
    #[error("pre-copy does not converge: {known}. What helps: {remedies}")]
    Diverging {
        /// How the rounds went.
        known: Known,
        /// What helps.
        remedies: Remedies,
    },
    /// Rounds became shorter, but there were too few.
    #[error(
        "pre-copy would go on, but for --max-rounds: {known}. What helps: a larger --max-rounds, or {remedies}"
    )]
    TooFewRounds {
        /// How the rounds went.
        known: Known,
        /// What helps beside.
        remedies: Remedies,
    },
}

/// What is known of a guest after some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Rounds made.
    pub rounds: usize,
    /// About how fast the guest writes.
    pub dirty_pages_per_second: f64,
    /// How fast the link is.
    pub bytes_per_second: f64,
    /// The downtime if the guest were paused now.
    pub expected: Duration,
    /// The downtime the user accepts.
    pub limit: Duration,
}

impl Known {
    /// After the last round; nothing if there was none.
    pub(crate) fn of(rounds: &[Round], limits: &Limits) -> Option<Known> {
        let last = rounds.last()?;
        Some(Known {
            rounds: rounds.len(),
            dirty_pages_per_second: last.dirty_rate(),
            bytes_per_second: bandwidth(rounds),
            expected: expected_downtime(rounds, last.dirtied, limits),
            limit: limits.downtime,
        })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = if self.rounds == 1 { "round" } else { "rounds" };
        write!(
            f,
            "after {} {rounds} the guest dirties about {:.0} pages/s ({:.0} Mbit/s) while the link carries {:.0} Mbit/s, \
             so the downtime would be {:.1} ms and the limit is {:.1} ms",
            self.rounds,
            self.dirty_pages_per_second,
            self.dirty_pages_per_second * PAGE_SIZE as f64 * 8e-6,
            self.bytes_per_second * 8e-6,
            ms(&self.expected),
            ms(&self.limit)
        )
    }
}

/// What a guest that does not converge could be moved by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remedies {
    /// How long post-copy would take.
    pub post_copy: Duration,
    /// The downtime if the guest were paused now.
    pub stop_now: Duration,
    /// The bandwidth at which pre-copy would keep the limit.
    pub bytes_per_second: f64,
}

impl Remedies {
    fn of(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Remedies {
        let rate = rounds.last().map_or(0.0, Round::dirty_rate) * PAGE_SIZE as f64;
        // Either rounds shrink, by a quarter each, or what the guest writes again and again fits into the limit.
        let for_pages = limits.downtime.saturating_sub(limits.fixed).as_secs_f64().max(1e-6);
        let at_once = dirty_pages as f64 * PAGE_SIZE as f64 / for_pages;
        // Zero pages cost nothing, in round 0 as in post-copy.
        let all = rounds.first().map_or(limits.memory_pages * PAGE_SIZE as u64, |first| first.sent.bytes);
        Remedies {
            post_copy: Duration::try_from_secs_f64(all as f64 / bandwidth(rounds))
                .unwrap_or(Duration::MAX / 2),
            stop_now: expected_downtime(rounds, dirty_pages, limits),
            bytes_per_second: (rate * 4.0 / 3.0).min(at_once),
        }
    }
}

impl fmt::Display for Remedies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "post-copy would take about {}; stop now would be {} of downtime (--downtime-limit); about {:.0} Mbit/s would \
             converge",
            time(self.post_copy),
            time(self.stop_now),
            self.bytes_per_second * 8e-6
        )
    }
}

/// A time of one digit after the point.
fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.0} ms", (seconds * 1e3).ceil()),
        seconds => format!("{:.1} s", (seconds * 10.0).ceil() / 10.0),
    }
}

fn ms(duration: &Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What to do about it depends on what it is.
fn remedy(fixed: &Duration, travel: &Duration) -> String {
    match *travel > *fixed / 2 {
        true => format!(
            "{:.1} ms of that is the way to the destination and back: raise --downtime-limit above it",
            ms(travel)
        ),
        false => "Raise --downtime-limit, or look at what keeps the hosts busy".to_owned(),
    }
}

/// Rounds in a row without progress after which a guest above the limit is given up.
const PATIENCE: usize = 5;
/// What is this much larger is not so by chance.
const MUCH: f64 = 1.5;
/// A round made progress if it left at most this much of what the one before left.
const PROGRESS: f64 = 0.9;
/// Dirty pages below this share of the fixed part are not worth another round.
const WORTH_A_ROUND: f64 = 0.05;

/// The downtime to expect if the guest were paused with `dirty_pages` dirty.
pub fn expected_downtime(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Duration {
    limits.fixed + transfer_time(rounds, dirty_pages)
}

/// Whether a switchover that takes `fixed` without any page, `travel` of it on the way, can keep to the limit at all. Known
/// before the first page is sent.
///
/// # Errors
/// [`OutOfReach::Fixed`] if it cannot.
pub fn check_fixed(fixed: Duration, travel: Duration, limit: Duration) -> Result<(), OutOfReach> {
    if fixed > limit { Err(OutOfReach::Fixed { fixed, travel, limit }) } else { Ok(()) }
}

/// What to do now that the last of `rounds` is over and `dirty_pages` are dirty.
pub fn decide(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Decision {
    let transfer = transfer_time(rounds, dirty_pages);
    let expected = limits.fixed + transfer;
    let may_go_on = rounds.len() < limits.max_rounds as usize;
    if expected <= limits.downtime {
        let is_little = transfer <= limits.fixed.mul_f64(WORTH_A_ROUND);
        let pays = !is_little && rounds_without_progress(rounds) < 2;
        return if may_go_on && pays { Decision::NextRound } else { Decision::Switchover };
    }
    let is_clear = converges(rounds, dirty_pages, limits) == Some(false);
    let stalled = rounds_without_progress(rounds);
    if may_go_on && stalled < PATIENCE && !is_clear {
        return Decision::NextRound;
    }
    let Some(known) = Known::of(rounds, limits) else { return Decision::NextRound };
    let remedies = Remedies::of(rounds, dirty_pages, limits);
    let is_faster = known.dirty_pages_per_second * PAGE_SIZE as f64 > known.bytes_per_second;
    Decision::GiveUp(match stalled == 0 && (rounds.len() > 1 || !is_faster) {
        true => OutOfReach::TooFewRounds { known, remedies },
        false => OutOfReach::Diverging { known, remedies },
    })
}

/// Whether rounds get anywhere; nothing before that is known. It is clear that they do not once a round by the whole
/// link left as much as it sent, because the guest writes much faster, and that is far above the limit: no later round
/// differs from it.
pub fn converges(rounds: &[Round], dirty_pages: u64, limits: &Limits) -> Option<bool> {
    let [.., _, last] = rounds else { return None };
    if rounds_without_progress(rounds) == 0
        || expected_downtime(rounds, dirty_pages, limits) <= limits.downtime
    {
        return Some(true);
    }
    let is_faster = last.dirty_rate() * PAGE_SIZE as f64 > bandwidth(rounds) * MUCH;
    let for_pages = limits.downtime.saturating_sub(limits.fixed);
    let is_far = transfer_time(rounds, dirty_pages) > for_pages.mul_f64(MUCH);
    (is_faster && is_far).then_some(false)
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

/// How many pages the downtime limit leaves time for, at the bandwidth that was measured.
pub(crate) fn pages_within_limit(rounds: &[Round], limits: &Limits) -> u64 {
    let for_pages = limits.downtime.saturating_sub(limits.fixed);
    // More than a number can hold is as many as there are.
    (for_pages.as_secs_f64() * bandwidth(rounds) / PAGE_SIZE as f64) as u64
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
    use crate::{pages::Sent, timeline::Look};

    const LIMITS: Limits = Limits {
        downtime: Duration::from_millis(50),
        max_rounds: 30,
        fixed: Duration::from_micros(500),
        memory_pages: 131_072,
    };

    /// A round over a link of 4 GB/s by a guest that writes `rate` pages a second.
    fn round(pages: u64, rate: f64) -> Round {
        let bytes = pages * PAGE_SIZE as u64;
        let duration = Duration::from_secs_f64(bytes as f64 / 4e9);
        let dirtied = (rate * duration.as_secs_f64()) as u64;
        let look = Look { dirtied: (rate * 5e-3) as u64, after: Duration::from_millis(5) };
        Round { sent: Sent { pages, zero_pages: 0, bytes }, duration, dirtied, look: Some(look) }
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
        assert_eq!(rounds, 2);
        assert!(reason.to_string().contains("(--downtime-limit)"), "{reason}");
        assert!(!reason.to_string().contains("--max-rounds"), "{reason}");
    }

    /// 128 MiB at 615 000 pages/s over 200 Mbit/s: each round finds all of them dirty.
    #[test]
    fn non_convergence_is_known_after_round_1_by_a_look_at_the_log() {
        let round = |pages: u64| Round {
            sent: Sent { pages, zero_pages: 0, bytes: pages * PAGE_SIZE as u64 },
            duration: Duration::from_secs_f64(pages as f64 * PAGE_SIZE as f64 / 25e6),
            dirtied: 32_768,
            look: Some(Look { dirtied: 3_075, after: Duration::from_millis(5) }),
        };
        let rounds = [round(43_000), round(32_768)];
        assert_eq!(decide(&rounds[..1], 32_768, &LIMITS), Decision::NextRound);
        let Decision::GiveUp(reason) = decide(&rounds, 32_768, &LIMITS) else { panic!("it is clear") };
        let words = reason.to_string();
        assert!(words.contains("after 2 rounds the guest dirties about 615000 pages/s"), "{words}");
        assert!(words.contains("link carries 200 Mbit/s"), "{words}");
        let help = "post-copy would take about 7.1 s; stop now would be 5.4 s of downtime (--downtime-limit); about 21692 Mbit/s \
                    would converge";
        assert!(words.ends_with(help), "{words}");
        assert_eq!(converges(&rounds, 32_768, &LIMITS), Some(false));
        // Without the look the guest seems slower than it is: later rounds must show it.
        let blind = rounds.map(|round| Round { look: None, ..round });
        assert_eq!(decide(&blind, 32_768, &LIMITS), Decision::NextRound);
    }

    #[test]
    fn entry_16_more_rounds_are_offered_only_where_rounds_change_something() {
        let limits = Limits { max_rounds: 2, downtime: Duration::from_millis(1), ..LIMITS };
        let (_, _, decision) = play(131_072, 500_000.0, 131_072, &limits);
        let Decision::GiveUp(reason) = decision else { panic!("{decision:?}") };
        assert!(reason.to_string().contains("--max-rounds"), "{reason}");
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
        assert!(matches!(decision, Decision::GiveUp(_)));
    }

    #[test]
    fn pages_within_the_limit_take_as_long_as_it_leaves() {
        let rounds = [round(131_072, 0.0)];
        let pages = pages_within_limit(&rounds, &LIMITS);
        // 49.5 ms at 4 GB/s.
        assert!(pages.abs_diff(48_339) <= 1, "{pages}");
        assert!(expected_downtime(&rounds, pages, &LIMITS) <= LIMITS.downtime);
        let tight = Limits { downtime: Duration::from_micros(500), ..LIMITS };
        assert_eq!(pages_within_limit(&rounds, &tight), 0);
        assert_eq!(pages_within_limit(&[], &LIMITS), u64::MAX, "nothing is known of the link");
    }

    #[test]
    fn entry_26_a_long_way_is_not_blamed_on_the_hosts() {
        let [fixed, far, near, limit] = [76, 75, 1, 50].map(Duration::from_millis);
        let words = |travel| check_fixed(fixed, travel, limit).unwrap_err().to_string();
        assert!(
            words(far).contains("75.0 ms of that is the way") && !words(far).contains("busy"),
            "{}",
            words(far)
        );
        assert!(words(near).contains("busy"), "{}", words(near));
        assert_eq!(check_fixed(limit, far, limit), Ok(()));
    }

    #[test]
    fn the_most_rounds_are_kept_to() {
        let limits = Limits { max_rounds: 1, downtime: Duration::from_millis(100), ..LIMITS };
        assert!(matches!(play(131_072, 500_000.0, 131_072, &limits), (1, _, Decision::Switchover)));
        let limits = Limits { max_rounds: 1, downtime: Duration::from_millis(1), ..LIMITS };
        assert!(matches!(play(131_072, 500_000.0, 131_072, &limits), (1, _, Decision::GiveUp(_))));
    }
}
