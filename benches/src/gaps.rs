//! Which of the guest's gaps is the downtime.
//!
//! The guest notes every step of its loop that took longer than 50 µs, by the time-stamp counter. Between
//! the command to migrate and the end of the migration that is, in order of time:
//!
//! 1. the rehearsal: a pause of 0.1–0.3 ms before the rounds, in which the source saves its state once;
//! 2. stretches in which the host ran something else;
//! 3. **the switchover**;
//! 4. in post-copy, one gap for each touch of a missing page.
//!
//! So the longest gap of all would name a page fault or the host's scheduler now and then. The rule is:
//! the source's memory stands still from its pause on, with every gap in it that ended before. *The
//! downtime is the first gap at the destination that the source's memory does not know*: the guest's
//! step in it began at the source and ended at the destination. On several vCPUs it is the longest of
//! theirs. A gap shorter than what the engine knows for certain (the guest stood still from the end of the
//! pause until the word to start) is none: the pause may catch the guest in the middle of noting another
//! one, which then appears at the destination first. Where the source's memory can be read no more, it is the longest gap of the migration.
//!
//! The guest keeps only the last 32 such gaps and the 16 longest, so in post-copy, where hundreds follow,
//! the destination is asked twice: once as soon as the guest runs there, and once at the end.

use serde::{Deserialize, Serialize};

/// A gap, as the control socket tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Gap {
    /// Whose.
    pub vcpu: u32,
    /// The counter at the step before it.
    pub start_tsc: u64,
    /// How long, in ticks.
    pub ticks: u64,
    /// How long, in microseconds.
    pub duration_us: u64,
    /// What the vCPU was doing.
    #[serde(default)]
    pub activity: String,
}

impl Gap {
    fn end_tsc(&self) -> u64 {
        self.start_tsc.saturating_add(self.ticks)
    }

    /// The guest was up and at its work; while it fills or checks memory, a step is long by itself.
    fn is_ordinary(&self) -> bool {
        !matches!(self.activity.to_ascii_lowercase().as_str(), "fill" | "filling" | "check" | "checking")
    }
}

/// How long gaps were, by powers of two of ticks: `counts[i]` of them took from 2^i to 2^(i+1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapHistogram {
    /// Frequency of the guest's time-stamp counter.
    pub tsc_khz: u64,
    /// How many.
    pub counts: Vec<u64>,
}

impl GapHistogram {
    /// What came between two looks at a guest's counts; nothing if the guest says nothing about them.
    pub fn between(before: &[u64], after: &[u64], tsc_khz: u64) -> Option<GapHistogram> {
        let before = before.iter().copied().chain(std::iter::repeat(0));
        let counts: Vec<u64> =
            after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
        (tsc_khz > 0 && counts.iter().any(|&count| count > 0)).then_some(GapHistogram { tsc_khz, counts })
    }

    /// From where to where bucket `i` goes, in microseconds.
    pub fn bounds_us(&self, i: usize) -> (f64, f64) {
        let us = |power: usize| 2f64.powi(power as i32) * 1e3 / self.tsc_khz as f64;
        (us(i), us(i + 1))
    }
}

/// When the migration happened, by the guest's counter, and what had been before.
#[derive(Clone, Debug)]
pub struct Window {
    /// Just before the command.
    pub begin_tsc: u64,
    /// Just after the end.
    pub end_tsc: u64,
    /// The gaps in the source's memory after its pause, if it could still be read.
    pub at_source: Option<Vec<Gap>>,
    /// How long the guest stood still for certain, by the engine's clock.
    pub stood_still_us: u64,
}

/// What the guest saw of a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The gap that is the switchover.
    pub downtime_us: Option<u64>,
    /// The longest other one: a page fault, the rehearsal, or the host's scheduler.
    pub longest_stall_us: Option<u64>,
}

/// Picks the downtime, and the longest of the rest.
pub fn seen(gaps: &[Gap], window: &Window) -> Seen {
    let within =
        |gap: &&Gap| gap.is_ordinary() && gap.end_tsc() > window.begin_tsc && gap.start_tsc < window.end_tsc;
    let within: Vec<&Gap> = gaps.iter().filter(within).collect();
    let switchovers = switchovers(&within, window);
    let others = within.iter().filter(|gap| !switchovers.contains(gap));
    Seen {
        downtime_us: switchovers.iter().map(|gap| gap.duration_us).max(),
        longest_stall_us: others.map(|gap| gap.duration_us).max(),
    }
}

/// The gap of each vCPU that is the switchover.
fn switchovers<'a>(within: &[&'a Gap], window: &Window) -> Vec<&'a Gap> {
    let Some(at_source) = &window.at_source else {
        return within.iter().max_by_key(|gap| gap.ticks).copied().into_iter().collect();
    };
    let mut firsts: Vec<&Gap> = Vec::new();
    // The engine's clock is another one, and rounds: what is nearly long enough will do.
    let long_enough = |gap: &&&Gap| gap.duration_us >= window.stood_still_us - window.stood_still_us / 8;
    for gap in within.iter().filter(|gap| !at_source.contains(gap)).filter(long_enough) {
        match firsts.iter_mut().find(|first| first.vcpu == gap.vcpu) {
            Some(first) if first.start_tsc <= gap.start_tsc => {}
            Some(first) => *first = gap,
            None => firsts.push(gap),
        }
    }
    firsts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(vcpu: u32, start_tsc: u64, ticks: u64) -> Gap {
        Gap { vcpu, start_tsc, ticks, duration_us: ticks / 1_000, activity: "spin".to_owned() }
    }

    fn window(at_source: Option<Vec<Gap>>) -> Window {
        Window { begin_tsc: 1_000_000, end_tsc: 9_000_000, at_source, stood_still_us: 850 }
    }

    #[test]
    fn the_first_gap_that_the_source_does_not_know_is_the_downtime_even_if_a_fault_is_longer() {
        let boot = gap(0, 500_000, 90_000);
        let rehearsal = gap(0, 1_200_000, 150_000);
        // The guest was about to note this one when it was paused.
        let unfinished = gap(0, 2_900_000, 70_000);
        let (switchover, fault) = (gap(0, 3_000_000, 900_000), gap(0, 5_000_000, 1_400_000));
        let after = gap(0, 9_500_000, 7_000_000);
        let at_source = window(Some(vec![boot.clone(), rehearsal.clone()]));
        // The destination was asked twice, so gaps come twice and in no order.
        let gaps = [fault.clone(), boot, unfinished, switchover.clone(), rehearsal, switchover, fault, after];
        assert_eq!(seen(&gaps, &at_source), Seen { downtime_us: Some(900), longest_stall_us: Some(1_400) });
    }

    #[test]
    fn a_check_is_no_gap_and_vcpus_are_told_apart() {
        let mut check = gap(0, 2_900_000, 5_000_000);
        check.activity = "check".to_owned();
        let gaps = [check, gap(0, 3_000_040, 800_000), gap(1, 3_000_045, 850_000), gap(1, 4_000_000, 60_000)];
        let seen = seen(&gaps, &window(Some(Vec::new())));
        assert_eq!(seen, Seen { downtime_us: Some(850), longest_stall_us: Some(60) });
    }

    #[test]
    fn a_histogram_holds_what_came_between_two_looks() {
        let histogram = GapHistogram::between(&[5, 1], &[5, 3, 1], 2_000_000).unwrap();
        assert_eq!(histogram.counts, [0, 2, 1]);
        assert_eq!(histogram.bounds_us(20), (524.288, 1_048.576));
        assert_eq!(GapHistogram::between(&[1], &[1], 2_000_000), None);
        assert_eq!(GapHistogram::between(&[], &[], 2_000_000), None);
    }

    #[test]
    fn without_the_source_the_longest_gap_has_to_do() {
        let gaps = [gap(0, 1_200_000, 150_000), gap(0, 3_000_000, 900_000)];
        let window = window(None);
        assert_eq!(seen(&gaps, &window), Seen { downtime_us: Some(900), longest_stall_us: Some(150) });
        assert_eq!(seen(&[], &window), Seen::default());
    }
}
