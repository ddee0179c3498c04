//! After any end of a migration, threads and descriptors of both sides are what they were before. A binary of its own,
//! with one test, because it counts those of the whole process.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use engine::{
    report::Outcome,
    sim::{Cut, Fault, Tally},
    strategy::Strategy,
};
use one_guest::{PAGES, Try, boot};

#[allow(dead_code, reason = "the simulated tests use all of it")]
#[path = "sim/one_guest.rs"]
mod one_guest;

const TRIES: u64 = 100;

/// Why a try fails.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The links end at one message or another.
    Cut(Cut),
    Refused,
    Cancelled,
    DoesNotLoad,
    DoesNotStart,
}

fn try_once(kind: Kind, strategy: Strategy, number: u64) -> Outcome {
    // With a network and without; a source in doubt carries frames for seconds.
    let has_network = number.is_multiple_of(if matches!(kind, Kind::DoesNotStart) { 50 } else { 2 });
    let mut source = boot(1 - u64::from(has_network));
    let mut attempt = Try::new(strategy);
    match kind {
        Kind::Cut(cut) => attempt.tally = Tally::cut_at(number % 60, cut),
        Kind::Refused => attempt.host.max_pages = PAGES - 1,
        Kind::Cancelled => attempt.options.max_bandwidth = Some(100_000_000),
        Kind::DoesNotLoad => attempt.host.fault = Some((Fault::Load, (number % 4) as u32)),
        Kind::DoesNotStart => attempt.host.fault = Some((Fault::Start, 0)),
    }
    let interrupt = attempt.interrupt.clone();
    let tried = thread::scope(|scope| {
        if matches!(kind, Kind::Cancelled) {
            scope.spawn(move || {
                thread::sleep(Duration::from_micros(number * 200));
                interrupt.raise();
            });
        }
        attempt.run(&mut source)
    });
    tried.report.outcome
}

/// Threads and descriptors of this process.
fn counts() -> (usize, usize) {
    let count = |path: &str| fs::read_dir(path).expect("proc").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// A guest that ran is announced for half a second more.
fn settled(at_most: (usize, usize)) -> (usize, usize) {
    let begin = Instant::now();
    loop {
        let found = counts();
        if (found.0 <= at_most.0 && found.1 <= at_most.1) || begin.elapsed() > Duration::from_secs(20) {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn entry_12_nothing_is_left_after_a_hundred_failed_tries_of_each_kind() {
    let before = counts();
    let kinds = [
        Kind::Cut(Cut::Before),
        Kind::Cut(Cut::After),
        Kind::Cut(Cut::Flip),
        Kind::Refused,
        Kind::Cancelled,
        Kind::DoesNotLoad,
        Kind::DoesNotStart,
    ];
    for kind in kinds {
        let strategy = |number: u64| Strategy::ALL[(number % 4) as usize];
        let fails = |&number: &u64| try_once(kind, strategy(number), number) != Outcome::Completed;
        let failed = (0..TRIES).filter(fails).count();
        assert!(failed > 0, "{kind:?}: none failed");
        assert_eq!(settled(before), before, "{kind:?}: (threads, descriptors), {failed} failed");
        println!("{kind:?}: {failed} of {TRIES} failed");
    }
}
