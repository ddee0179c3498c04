//! Network time: microseconds since boot as the guest lived them.
//!
//! TCP's timers run on it. It must not do what a TSC does in a migration: jump back or ahead to another host's, or go on
//! while the guest stands still, whereupon all connections would time out at once.

use smoltcp::time::Instant;

/// A clock driven by the TSC of a loop that looks at it many times a second.
pub struct Clock {
    tsc_khz: u64,
    last_tsc: u64,
    micros: i64,
    /// Ticks not yet counted, times 1000.
    rest: u64,
}

impl Clock {
    /// A longer time between two looks is time the guest did not live.
    pub const LONGEST_STEP_MS: u64 = 200;

    /// A clock that is zero at this TSC.
    #[must_use]
    pub const fn new(tsc_khz: u64, tsc: u64) -> Self {
        Self { tsc_khz: if tsc_khz == 0 { 1 } else { tsc_khz }, last_tsc: tsc, micros: 0, rest: 0 }
    }

    /// The time at this TSC: never less than before.
    pub fn at(&mut self, tsc: u64) -> Instant {
        let ticks = tsc.saturating_sub(self.last_tsc).min(self.tsc_khz * Self::LONGEST_STEP_MS);
        self.last_tsc = tsc;
        self.rest += ticks * 1_000;
        self.micros += (self.rest / self.tsc_khz) as i64;
        self.rest %= self.tsc_khz;
        Instant::from_micros(self.micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_microseconds_without_drift() {
        let mut clock = Clock::new(3_000_007, 500);
        let mut tsc = 500;
        for _ in 0..1_000_000 {
            tsc += 3_001;
            clock.at(tsc);
        }
        assert_eq!(clock.at(tsc).total_micros(), (3_001_000_000i64 * 1_000) / 3_000_007);
    }

    #[test]
    fn another_machines_tsc_is_no_time() {
        let mut clock = Clock::new(1_000_000, 1 << 40);
        assert_eq!(clock.at((1 << 40) + 5_000_000).total_micros(), 5_000);
        assert_eq!(clock.at(77).total_micros(), 5_000, "back: time stands still for one look");
        assert_eq!(clock.at(1_000_077).total_micros(), 6_000);
        assert_eq!(clock.at(u64::MAX).total_micros(), 206_000, "ahead: by the longest step");
    }
}
