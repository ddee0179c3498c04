//! Gaps: the time between two consecutive steps of a vCPU's loop, in TSC ticks.
//!
//! A step does very little (one page, one byte of console, one turn of the spin loop), so a long gap means that the vCPU
//! did not run: a migration's downtime, a page fault in post-copy, or the host's scheduler. Each gap carries what the
//! vCPU was doing, so that a gap of the guest's own making (a HLT, say) can be told apart.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::layout::{GAP_BUCKETS, RECENT_GAPS, VcpuPart};
use crate::words::seal;

/// What a vCPU did between the two steps of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Activity {
    /// Spinning: the loop did nothing but read the TSC.
    Spin = 1,
    /// Writing one page of the working set.
    Write = 2,
    /// Verifying one page.
    Check = 3,
    /// Asleep until the next timer tick (`idle=halt`): that is its own doing, and kept among the recent gaps only from two
    /// ticks over the threshold on.
    Halt = 4,
    /// One byte of console input or output.
    Console = 5,
    /// Filling one page, before the guest is ready.
    Fill = 6,
    /// One step of the network service: a frame taken in, a look at all connections, or frames handed out.
    Network = 7,
}

impl Activity {
    const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::Spin,
            2 => Self::Write,
            3 => Self::Check,
            4 => Self::Halt,
            5 => Self::Console,
            6 => Self::Fill,
            7 => Self::Network,
            _ => return None,
        })
    }
}

/// One gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// TSC at the step before it.
    pub start_tsc: u64,
    /// Length in TSC ticks.
    pub ticks: u64,
    /// What the vCPU was doing.
    pub activity: Activity,
}

impl Gap {
    /// TSC at the step after it.
    #[must_use]
    pub const fn end_tsc(&self) -> u64 {
        self.start_tsc.wrapping_add(self.ticks)
    }
}

/// A [`Gap`] in telemetry. All zero while empty.
#[repr(C)]
pub struct GapRecord {
    start_tsc: AtomicU64,
    ticks: AtomicU64,
    activity: AtomicU64,
    seal: AtomicU64,
}

impl GapRecord {
    fn store(&self, gap: &Gap) {
        let words = [gap.start_tsc, gap.ticks, gap.activity as u64];
        self.start_tsc.store(words[0], Relaxed);
        self.ticks.store(words[1], Relaxed);
        self.activity.store(words[2], Relaxed);
        self.seal.store(seal(&words), Relaxed);
    }

    fn clear(&self) {
        self.seal.store(0, Relaxed);
        self.ticks.store(0, Relaxed);
    }

    /// Reads it back; `None` if empty or torn.
    #[must_use]
    pub fn load(&self) -> Option<Gap> {
        let words = [&self.start_tsc, &self.ticks, &self.activity, &self.seal];
        Self::decode(words.map(|word| word.load(Relaxed)))
    }

    /// Decodes the record's four words; `None` if empty or torn by a concurrent write.
    #[must_use]
    pub fn decode(words: [u64; 4]) -> Option<Gap> {
        if words[3] != seal(&words[..3]) {
            return None;
        }
        let activity = Activity::from_word(words[2])?;
        Some(Gap { start_tsc: words[0], ticks: words[1], activity })
    }
}

/// A vCPU's step clock: call [`StepClock::step`] after each piece of work.
pub struct StepClock<'a> {
    part: &'a VcpuPart,
    last_tsc: u64,
    /// Below this a gap is not worth a count.
    floor_ticks: u64,
    /// From this on a gap is kept as a record.
    threshold_ticks: u64,
    /// Two ticks of the timer that ends a HLT.
    sleep_ticks: u64,
}

impl<'a> StepClock<'a> {
    /// Gaps shorter than this many nanoseconds are no gaps: they are the work of the loop itself.
    pub const FLOOR_NS: u64 = 2_000;

    /// A clock that starts at `now`.
    #[must_use]
    pub fn new(part: &'a VcpuPart, now: u64, tsc_khz: u64, threshold_us: u64) -> Self {
        Self {
            part,
            last_tsc: now,
            floor_ticks: (tsc_khz * Self::FLOOR_NS / 1_000_000).max(1),
            threshold_ticks: (tsc_khz * threshold_us / 1_000).max(1),
            sleep_ticks: 2 * tsc_khz,
        }
    }

    /// Says how far apart the ticks are that end a sleep, in TSC ticks (a millisecond, unless said).
    pub const fn sleeps_for(&mut self, ticks: u64) {
        self.sleep_ticks = 2 * ticks;
    }

    /// TSC at the last step.
    #[must_use]
    pub const fn last_tsc(&self) -> u64 {
        self.last_tsc
    }

    /// Gaps shorter than this are not counted.
    #[must_use]
    pub const fn floor_ticks(&self) -> u64 {
        self.floor_ticks
    }

    /// Ends a step at TSC `now`, after `activity`.
    #[inline]
    pub fn step(&mut self, now: u64, activity: Activity) {
        let heartbeat = self.part.heartbeat.load(Relaxed);
        self.part.heartbeat.store(heartbeat.wrapping_add(1), Relaxed);
        self.part.step_tsc.store(now, Relaxed);
        self.measure(self.last_tsc, now, activity);
    }

    /// Counts the gap from `previous` to `now`, where another loop (the spin loop) kept the heartbeat.
    #[inline]
    pub fn measure(&mut self, previous: u64, now: u64, activity: Activity) {
        self.last_tsc = now;
        // A destination's TSC may lie behind the source's: not a gap, and not to be hidden either.
        if now < previous {
            add(&self.part.tsc_backwards, 1);
        } else if now - previous >= self.floor_ticks {
            self.record(&Gap { start_tsc: previous, ticks: now - previous, activity });
        }
    }

    /// Begins a gap epoch at the last step: longest gaps and histogram start anew.
    pub fn begin_epoch(&mut self, epoch: u64) {
        for record in &self.part.longest_gaps {
            record.clear();
        }
        for bucket in &self.part.gap_histogram {
            bucket.store(0, Relaxed);
        }
        self.part.gap_epoch_tsc.store(self.last_tsc, Relaxed);
        self.part.gap_epoch.store(epoch, Relaxed);
    }

    /// Sleep until the next tick is no event; the ring of recent gaps would hold nothing else.
    const fn threshold(&self, activity: Activity) -> u64 {
        match activity {
            Activity::Halt => self.threshold_ticks + self.sleep_ticks,
            _ => self.threshold_ticks,
        }
    }

    #[cold]
    fn record(&self, gap: &Gap) {
        let bucket = (gap.ticks.ilog2() as usize).min(GAP_BUCKETS - 1);
        add(&self.part.gap_histogram[bucket], 1);
        if gap.ticks >= self.threshold(gap.activity) {
            let slot = self.part.gaps.load(Relaxed) as usize % RECENT_GAPS;
            self.part.recent_gaps[slot].store(gap);
            add(&self.part.gaps, 1);
        }
        let shortest = self.part.longest_gaps.iter().min_by_key(|record| record.ticks.load(Relaxed));
        if let Some(record) = shortest
            && record.ticks.load(Relaxed) < gap.ticks
        {
            record.store(gap);
        }
    }
}

/// Adds to a word only one vCPU writes; a locked instruction would say otherwise, and cost more.
pub(crate) fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}
