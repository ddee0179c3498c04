//! How fast the time stamp counter of the emulated hosts runs.
//!
//! QEMU passes this machine's counter on. A kernel that measures its frequency under emulation is far off when the
//! emulator does not get the processor meanwhile, and then all of its clocks, and those of its guests, run wrong.

use std::{
    arch::x86_64::_rdtsc,
    thread,
    time::{Duration, Instant},
};

/// What is waited between two readings: at a microsecond each, right to 20 millionths.
const BETWEEN: Duration = Duration::from_millis(100);

/// The counter's frequency, measured.
pub(super) fn khz() -> u64 {
    let (begin, first) = reading();
    thread::sleep(BETWEEN);
    let (end, last) = reading();
    let nanoseconds = (end - begin).as_nanos().max(1) as u64;
    // Ticks in a tenth of a second and their thousandfold are far from the end of u64.
    last.wrapping_sub(first) * 1_000_000 / nanoseconds
}

/// Both clocks at one moment: of some tries the one that was interrupted least.
fn reading() -> (Instant, u64) {
    let try_once = |_| {
        let before = Instant::now();
        // SAFETY: RDTSC reads a register and touches no memory.
        let ticks = unsafe { _rdtsc() };
        (before.elapsed(), before, ticks)
    };
    let tries = (0..100).map(try_once);
    let (_, at, ticks) = tries.min_by_key(|(taken, ..)| *taken).expect("there are a hundred");
    (at, ticks)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let (one, other) = (super::khz(), super::khz());
        assert!(one > 100_000 && one.abs_diff(other) < one / 500, "{one} kHz, {other} kHz");
    }
}
