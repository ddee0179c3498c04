//! A limit on bandwidth, which all links of a migration that carry pages share.
//!
//! Bulk pages wait until everything before them has been paid for. A requested page does not wait for bulk pages, only
//! for other requested ones beyond the limit: it goes at once, and the bulk link, which it is charged to, waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Interrupt;
use crate::pages::PAGE_SIZE;

/// Paces bytes to a rate, with a few milliseconds' worth in advance. No lock: the thread that answers page requests must
/// not wait for one that pushes.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: f64,
    origin: Instant,
    /// When all bytes let through so far would have been sent at exactly the rate, in nanoseconds since `origin`.
    all: AtomicU64,
    /// As that, for the urgent ones alone.
    urgent: AtomicU64,
}

/// What a link's bytes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// For all bytes before them.
    Bulk,
    /// For urgent bytes before them.
    Urgent,
}

/// A link's part in a limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What all links of the migration share.
    pub throttle: Arc<Throttle>,
    /// What this one waits for.
    pub lane: Lane,
    /// Ends a wait.
    pub interrupt: Interrupt,
}

/// How far sending may run ahead of the rate: a sleep shorter than this is not worth its wake-up.
const BURST: Duration = Duration::from_millis(4);

impl Throttle {
    /// The longest sleep before whoever waits looks whether it still should.
    pub const NAP: Duration = Duration::from_millis(20);

    /// To `bits_per_second`, which is not 0.
    pub fn new(bits_per_second: u64) -> Throttle {
        Throttle {
            bytes_per_second: bits_per_second.max(8) as f64 / 8.0,
            origin: Instant::now(),
            all: AtomicU64::new(0),
            urgent: AtomicU64::new(0),
        }
    }

    /// How many pages a frame should hold, so that it takes some milliseconds at this rate.
    pub fn frame_pages(&self) -> u64 {
        let pages = self.bytes_per_second * BURST.as_secs_f64() / PAGE_SIZE as f64;
        (pages as u64).clamp(1, crate::protocol::MAX_FRAME_PAGES)
    }

    /// Lets `bytes` through at `now`, which then count.
    ///
    /// # Errors
    /// How long to wait before asking again; nothing counts then.
    pub fn admit(&self, lane: Lane, bytes: u64, now: Instant) -> Result<(), Duration> {
        let now = self.nanos(now);
        let account = match lane {
            Lane::Bulk => &self.all,
            Lane::Urgent => &self.urgent,
        };
        let ahead = Duration::from_nanos(account.load(Ordering::Relaxed).saturating_sub(now));
        let wait = ahead.saturating_sub(BURST);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.charge(&self.all, bytes, now);
        if lane == Lane::Urgent {
            self.charge(&self.urgent, bytes, now);
        }
        Ok(())
    }

    /// Whether urgent bytes that nobody waits for may be sent now.
    pub fn has_room(&self, now: Instant) -> bool {
        self.urgent.load(Ordering::Relaxed) <= self.nanos(now + BURST / 2)
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_nanos() as u64
    }

    fn charge(&self, paid_until: &AtomicU64, bytes: u64, now: u64) {
        let cost = (bytes as f64 / self.bytes_per_second * 1e9) as u64;
        let charge = |until: u64| Some(until.max(now).saturating_add(cost));
        paid_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When `bytes` are let through that are asked for at `now`.
    fn wait(throttle: &Throttle, lane: Lane, bytes: u64, mut now: Instant) -> Instant {
        while let Err(wait) = throttle.admit(lane, bytes, now) {
            now += wait;
        }
        now
    }

    #[test]
    fn a_second_of_bytes_takes_a_second() {
        let throttle = Throttle::new(8_000_000);
        let start = throttle.origin;
        let mut now = start;
        for _ in 0..1000 {
            now = wait(&throttle, Lane::Bulk, 1000, now);
        }
        let took = now - start;
        assert!(took <= Duration::from_secs(1) && took >= Duration::from_millis(990), "{took:?}");
        // An idle second earns no burst of a second.
        now += Duration::from_secs(1);
        assert_eq!(throttle.admit(Lane::Bulk, 1_000_000, now), Ok(()));
        assert!(wait(&throttle, Lane::Bulk, 1, now) - now >= Duration::from_millis(990));
    }

    /// Sends on both links for a second, each as soon as it may. Returns the bytes of each.
    fn race(bits_per_second: u64, urgent_every: Duration) -> (u64, u64) {
        const FRAME: u64 = 40_000;
        const PAGE: u64 = 4_200;
        const LINK: Duration = Duration::from_micros(10);
        let throttle = Throttle::new(bits_per_second);
        let end = throttle.origin + Duration::from_secs(1);
        let (mut bulk_at, mut urgent_at) = (throttle.origin, throttle.origin);
        let (mut bulk, mut urgent) = (0, 0);
        while bulk_at.min(urgent_at) < end {
            if urgent_at <= bulk_at {
                match throttle.admit(Lane::Urgent, PAGE, urgent_at) {
                    Ok(()) => (urgent, urgent_at) = (urgent + PAGE, urgent_at + urgent_every),
                    Err(wait) => urgent_at += wait,
                }
            } else {
                match throttle.admit(Lane::Bulk, FRAME, bulk_at) {
                    Ok(()) => (bulk, bulk_at) = (bulk + FRAME, bulk_at + LINK),
                    Err(wait) => bulk_at += wait,
                }
            }
        }
        (bulk, urgent)
    }

    #[test]
    fn entry_17_a_limit_holds_for_bulk_and_urgent_links_together() {
        // 100 Mbit/s for a second are 12.5 MB; a few milliseconds in advance are allowed.
        let limit = 12_500_000.0;
        for urgent_every in [50, 400, 1_000, 100_000].map(Duration::from_micros) {
            let (bulk, urgent) = race(100_000_000, urgent_every);
            let share = (bulk + urgent) as f64 / limit;
            assert!((0.98..1.02).contains(&share), "{urgent_every:?}: {bulk} + {urgent}");
        }
    }

    #[test]
    fn entry_17_a_requested_page_does_not_wait_for_the_push() {
        let throttle = Throttle::new(8_000_000);
        let now = throttle.origin;
        assert_eq!(throttle.admit(Lane::Bulk, 10_000_000, now), Ok(()));
        assert!(throttle.has_room(now));
        assert_eq!(throttle.admit(Lane::Urgent, 4096, now), Ok(()));
        assert!(!throttle.has_room(now));
        assert!(throttle.admit(Lane::Bulk, 1, now).unwrap_err() > Duration::from_secs(9));
    }
}
