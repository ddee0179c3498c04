//! When what happened. Downtime and its parts come from here and from nowhere else.
//!
//! The source's clock is the only one: two hosts' clocks are never subtracted from each other. What
//! the destination did is known by its own durations, and by a round trip measured beforehand.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{pages::Sent, protocol::LoadTimes};

/// One pass over dirty pages while the guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What it sent.
    pub sent: Sent,
    /// How long that took.
    pub duration: Duration,
    /// Different pages that the guest wrote meanwhile, however often.
    pub dirtied: u64,
    /// A short look at what it had written by then.
    pub look: Option<Look>,
}

/// A look at the dirty log at the beginning of a round, before pages are written again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Different pages that the guest had written.
    pub dirtied: u64,
    /// Since the log was emptied.
    pub after: Duration,
}

impl Round {
    /// Pages a second that the guest wrote during the round, at least: a page that is written again is seen once.
    pub fn distinct_rate(&self) -> f64 {
        rate(self.dirtied, self.duration)
    }

    /// About how many it wrote: in the first milliseconds fewer are written twice.
    pub fn dirty_rate(&self) -> f64 {
        let look = self.look.map_or(0.0, |look| rate(look.dirtied, look.after));
        self.distinct_rate().max(look)
    }

    /// Bytes a second that the link carried.
    pub fn bandwidth(&self) -> f64 {
        self.sent.bytes as f64 / self.duration.as_secs_f64().max(1e-6)
    }
}

fn rate(pages: u64, time: Duration) -> f64 {
    pages as f64 / time.as_secs_f64().max(1e-6)
}

/// The stamps of a switchover, in the order in which they are made.
#[derive(Clone, Copy, Debug)]
pub struct Switchover {
    /// The source was told to pause.
    pub begin: Instant,
    /// No vCPU ran any more, and the devices had drained.
    pub paused: Instant,
    /// The state was saved.
    pub saved: Instant,
    /// The last pages that must be there before the start were given to the link.
    pub pages_sent: Instant,
    /// The digest of all memory was made, if that was asked for before the start.
    pub digested: Instant,
    /// The destination's word that all is loaded came.
    pub loaded: Instant,
    /// What the destination did until then.
    pub load: LoadTimes,
    /// The word to start was sent: the handover.
    pub start_sent: Instant,
    /// The destination's word that the guest runs came.
    pub running: Instant,
    /// From the word to start to the first vCPU entering the guest.
    pub start: Duration,
    /// A round trip of a small message, measured before.
    pub round_trip: Duration,
}

impl Switchover {
    /// The state was saved just now; nothing after that has happened yet.
    pub(crate) fn begin(begin: Instant, paused: Instant, round_trip: Duration) -> Switchover {
        let saved = Instant::now();
        let (pages_sent, digested, loaded, start_sent, running) = (saved, saved, saved, saved, saved);
        let (load, start) = (LoadTimes::default(), Duration::ZERO);
        Switchover {
            begin,
            paused,
            saved,
            pages_sent,
            digested,
            loaded,
            load,
            start_sent,
            running,
            start,
            round_trip,
        }
    }
}

/// Downtime by the engine's clock, in parts that add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct DowntimeParts {
    /// Stopping the vCPUs and draining devices, in microseconds.
    pub pause: u64,
    /// Saving the state of vCPUs and devices, in microseconds.
    pub save_state: u64,
    /// Taking the last dirty pages and giving what must be there to the link, in microseconds.
    pub final_pages: u64,
    /// The rest of the way: pages and state on the wire, and the answer, in microseconds.
    pub transfer: u64,
    /// Comparing digests of all memory, if that was asked for before the start, in microseconds.
    pub verify: u64,
    /// Loading the state, in microseconds.
    pub load: u64,
    /// From the handover to the first vCPU entering the guest, in microseconds.
    pub start: u64,
}

impl DowntimeParts {
    /// Their sum: the downtime, in microseconds.
    pub fn total_us(&self) -> u64 {
        self.pause + self.save_state + self.final_pages + self.transfer + self.verify + self.load + self.start
    }
}

impl Switchover {
    /// The parts, in microseconds.
    pub fn parts(&self) -> DowntimeParts {
        let one_way = self.round_trip / 2;
        let start = self.start_sent - self.loaded + one_way + self.start;
        // The destination's own durations are its word, and rounded: never more than what passed here.
        let passed = micros(self.loaded - self.digested);
        let verify = self.load.verify_us.min(passed);
        let load = self.load.load_us.min(passed - verify);
        DowntimeParts {
            pause: micros(self.paused - self.begin),
            save_state: micros(self.saved - self.paused),
            final_pages: micros(self.pages_sent - self.saved),
            transfer: passed - verify - load,
            verify: micros(self.digested - self.pages_sent) + verify,
            load,
            start: micros(start.min(self.running - self.loaded)),
        }
    }
}

/// Everything that was stamped during one migration.
#[derive(Debug)]
pub struct Timeline {
    /// The command to migrate.
    pub begin: Instant,
    /// The destination was ready and the first page about to be sent.
    pub ready: Option<Instant>,
    /// The rounds, if the strategy makes any.
    pub rounds: Vec<Round>,
    /// The switchover began: the guest was about to be paused.
    pub pausing: Option<Instant>,
    /// What was sent during the pause over the bulk link.
    pub final_pages: Option<Round>,
    /// The switchover, once it has happened.
    pub switchover: Option<Switchover>,
    /// What was pushed or requested after the start.
    pub push: Option<Round>,
    /// The source was free of duty, or the migration failed.
    pub end: Option<Instant>,
}

impl Timeline {
    /// Begins now.
    pub fn begin() -> Timeline {
        Timeline {
            begin: Instant::now(),
            ready: None,
            rounds: Vec::new(),
            pausing: None,
            final_pages: None,
            switchover: None,
            push: None,
            end: None,
        }
    }

    /// From the command to now, or to the end if that has come.
    pub fn total(&self) -> Duration {
        self.end.map_or_else(|| self.begin.elapsed(), |end| end - self.begin)
    }
}

/// The total migration time, in parts that add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PhaseTimes {
    /// Connecting, and making the destination ready, in microseconds.
    pub setup: u64,
    /// All rounds together, in microseconds.
    pub rounds: u64,
    /// Reading the dirty log between rounds, and preparing the pause, in microseconds.
    pub between_rounds: u64,
    /// From the pause to the destination's word that the guest runs, in microseconds.
    pub switchover: u64,
    /// Pushing what is missing, in microseconds.
    pub push: u64,
    /// Waiting for the destination's word that it has every page, in microseconds.
    pub completion: u64,
}

impl PhaseTimes {
    /// Their sum: the total migration time, in microseconds.
    pub fn total_us(&self) -> u64 {
        self.setup + self.rounds + self.between_rounds + self.switchover + self.push + self.completion
    }
}

impl Timeline {
    /// Where the time went until now, or until the end.
    pub fn phases(&self) -> PhaseTimes {
        let total = micros(self.total());
        let at = |instant: Option<Instant>| instant.map_or(total, |at| micros(at - self.begin).min(total));
        let (setup, pausing) = (at(self.ready), at(self.pausing));
        let running = at(self.switchover.as_ref().map(|switchover| switchover.running));
        let rounds: u64 = self.rounds.iter().map(|round| micros(round.duration)).sum();
        let rounds = rounds.min(pausing - setup);
        let push = self.push.as_ref().map_or(0, |push| micros(push.duration)).min(total - running);
        PhaseTimes {
            setup,
            rounds,
            between_rounds: pausing - setup - rounds,
            switchover: running - pausing,
            push,
            completion: total - running - push,
        }
    }
}

/// A clock that goes on while this process is stopped, or its host suspended.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination's word for how long it took is its own.
    #[test]
    fn parts_add_up_to_what_passed_here_whatever_the_destination_says() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let switchover = |said| Switchover {
            begin,
            paused: at(1),
            saved: at(2),
            pages_sent: at(4),
            digested: at(5),
            loaded: at(25),
            load: LoadTimes { pages_us: said, verify_us: said, load_us: said },
            start_sent: at(26),
            running: at(30),
            start: Duration::from_micros(said),
            round_trip: Duration::from_millis(2),
        };
        let honest = switchover(3000).parts();
        assert_eq!((honest.verify, honest.load, honest.transfer), (4000, 3000, 14_000));
        for said in [u64::MAX, u64::MAX / 2, 15_000] {
            let parts = switchover(said).parts();
            assert_eq!(parts.total_us(), 30_000, "{parts:?}");
        }
    }
}
