//! The host's wall clock, which the bed sets right: a PC's tells seconds, and hosts between which guests move agree on
//! more than that.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const NANOSECONDS: i64 = 1_000_000_000;

/// Nanoseconds since 1970.
pub fn now() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * NANOSECONDS + now.tv_nsec
}

/// Moves the clock on, or back.
pub fn move_on(nanoseconds: i64) {
    let then = now() + nanoseconds;
    let (tv_sec, tv_nsec) = (then.div_euclid(NANOSECONDS), then.rem_euclid(NANOSECONDS));
    if let Err(error) = clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec }) {
        eprintln!("set the clock: {error}");
    }
}
