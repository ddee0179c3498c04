//! A limit on bandwidth, for what may wait: bulk pages. Control and urgent links are never slowed.

use std::time::{Duration, Instant};

use crate::pages::PAGE_SIZE;

/// Paces bytes to a rate, with a few milliseconds' worth in advance.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: f64,
    /// When the bytes let through so far would have been sent at exactly the rate.
    paid_until: Instant,
}

/// How far sending may run ahead of the rate: a sleep shorter than this is not worth its wake-up.
const BURST: Duration = Duration::from_millis(4);

impl Throttle {
    /// The longest sleep before whoever waits looks whether it still should.
    pub const NAP: Duration = Duration::from_millis(20);

    /// To `bits_per_second`, which is not 0.
    pub fn new(bits_per_second: u64) -> Throttle {
        Throttle { bytes_per_second: bits_per_second.max(8) as f64 / 8.0, paid_until: Instant::now() }
    }

    /// How many pages a frame should hold, so that it takes some milliseconds at this rate.
    pub fn frame_pages(&self) -> u64 {
        let pages = self.bytes_per_second * BURST.as_secs_f64() / PAGE_SIZE as f64;
        (pages as u64).clamp(1, crate::protocol::MAX_FRAME_PAGES)
    }

    /// How long to wait before `bytes` more are sent, if they are sent at `now`.
    pub fn delay(&mut self, bytes: u64, now: Instant) -> Duration {
        let start = self.paid_until.max(now);
        self.paid_until = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        start.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second() {
        let mut throttle = Throttle::new(8_000_000);
        let start = throttle.paid_until;
        let mut now = start;
        for _ in 0..1000 {
            now += throttle.delay(1000, now);
        }
        let took = now - start;
        assert!(took <= Duration::from_secs(1) && took >= Duration::from_millis(990), "{took:?}");
        // An idle second earns no burst of a second.
        now += Duration::from_secs(1);
        throttle.delay(1_000_000, now);
        assert!(throttle.delay(1, now) >= Duration::from_millis(990));
    }
}
