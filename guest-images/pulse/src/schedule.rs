//! When the next page is due: a fixed schedule by the TSC, which a stall does not shift.

use telemetry::{CommandLine, DirtyRate};

/// One writer's share of the dirty rate.
pub struct Schedule {
    start: u64,
    /// Ticks between writes, in 1/256 ticks; 0 for as fast as possible, `u64::MAX` for never.
    period: u64,
    /// The next write's time since `start`, in 1/256 ticks.
    next: u64,
    /// A writer further behind than this gives up the rest: after a stall, a burst would be a load nobody asked for.
    patience: u64,
}

impl Schedule {
    /// vCPU `vcpu`'s schedule from `now` on; writers take turns.
    pub fn new(line: &CommandLine, tsc_khz: u64, vcpu: usize, now: u64) -> Self {
        let period = match line.dirty_rate {
            DirtyRate::Max => 0,
            DirtyRate::PagesPerSecond(0) => u64::MAX,
            DirtyRate::PagesPerSecond(rate) => ((tsc_khz * 1_000 * line.vcpus) << 8) / rate,
        };
        let next = if period == u64::MAX { u64::MAX } else { period / line.vcpus * (vcpu as u64 + 1) };
        Self { start: now, period, next, patience: (tsc_khz * 10) << 8 }
    }

    /// Whether a page is due.
    #[inline]
    pub fn is_due(&self, now: u64) -> bool {
        (now.saturating_sub(self.start) << 8) >= self.next
    }

    /// Plans the write after this one.
    #[inline]
    pub fn done(&mut self, now: u64) {
        let now = now.saturating_sub(self.start) << 8;
        if now - self.next > self.patience {
            self.next = now;
        }
        self.next += self.period;
    }

    /// TSC when the next page is due.
    #[inline]
    pub fn next_tsc(&self) -> u64 {
        if self.next == u64::MAX { u64::MAX } else { self.start + (self.next >> 8) }
    }
}
