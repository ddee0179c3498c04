//! Reading the guest's gaps as soon as it runs at the destination, Ferry's guest and QEMU's alike.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::gaps::Gap;

/// How long the guest's first step at the destination is waited for.
const FIRST_STEP: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(2);

/// What could be read when the guest had just started at the destination.
#[derive(Debug, Default)]
pub struct Handover {
    /// Gaps in the memory of the source, which stands still by then; nothing if it could not be read.
    pub at_source: Option<Vec<Gap>>,
    /// Gaps at the destination so far.
    pub first: Vec<Gap>,
    /// When it was heard that the guest runs there, by CLOCK_MONOTONIC.
    pub seen_ns: u64,
}

impl Handover {
    /// Waits for the guest's first step at the destination, of which a gap tells that the source does not know, and
    /// looks twice more, for other vCPUs. In post-copy the guest runs before the pages are there that its first step
    /// needs; its gap is noted after it.
    pub fn read(
        seen_ns: u64,
        at_source: Option<Vec<Gap>>,
        mut look_at_destination: impl FnMut() -> Option<Vec<Gap>>,
    ) -> Handover {
        let known = at_source.as_deref().unwrap_or_default();
        let mut first: Vec<Gap> = Vec::new();
        let (deadline, mut looks_left) = (Instant::now() + FIRST_STEP, 3);
        while looks_left > 0 && Instant::now() < deadline {
            thread::sleep(TICK);
            first.extend(look_at_destination().unwrap_or_default());
            looks_left -= u32::from(first.iter().any(|gap| !known.contains(gap)));
        }
        Handover { at_source, first, seen_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(start_tsc: u64) -> Gap {
        Gap { vcpu: 0, start_tsc, ticks: 1, duration_us: 1, activity: String::new() }
    }

    #[test]
    fn looks_until_a_gap_shows_that_the_source_does_not_know_and_twice_more() {
        let mut looks = 0;
        let handover = Handover::read(7, Some(vec![gap(1)]), || {
            looks += 1;
            match looks {
                1 => None,
                2 => Some(vec![gap(1)]),
                _ => Some(vec![gap(looks)]),
            }
        });
        assert_eq!(looks, 5);
        assert_eq!(handover.first, [gap(1), gap(3), gap(4), gap(5)]);
        assert_eq!((handover.at_source, handover.seen_ns), (Some(vec![gap(1)]), 7));
    }

    #[test]
    fn a_guest_that_never_steps_is_not_waited_for_long() {
        let handover = Handover::read(0, None, || None);
        assert_eq!((handover.at_source, handover.first), (None, vec![]));
    }
}
