//! The link is cut at every message of a migration, in four ways: each time exactly one side runs
//! the guest, with its memory right, or the outcome says why that cannot be known; and where the
//! guest stayed, a second try succeeds.

use std::time::Duration;

use crate::one_guest::{Try, boot};
use engine::{
    options::{Options, Verify},
    report::Outcome,
    sim::{Cut, Tally},
    strategy::Strategy,
};

const CUTS: [Cut; 4] = [Cut::Before, Cut::Within, Cut::After, Cut::Flip];

/// How many outcomes of each kind a test has seen.
#[derive(Debug, Default)]
struct Seen {
    stayed: u32,
    arrived: u32,
    unknown: u32,
    interrupted: u32,
}

/// Hybrid leaves pages missing if its limit is short, and none if it is long.
fn limit_of(strategy: Strategy, seed: u64) -> Duration {
    match strategy {
        Strategy::Hybrid if !seed.is_multiple_of(4) => Duration::from_nanos(1),
        _ => Options::default().downtime_limit,
    }
}

fn messages_of(strategy: Strategy, seed: u64) -> u64 {
    let mut source = boot(seed);
    let mut attempt = Try::new(strategy);
    attempt.options.downtime_limit = limit_of(strategy, seed);
    let tally = attempt.tally.clone();
    let tried = attempt.run(&mut source);
    assert_eq!(tried.report.outcome, Outcome::Completed);
    tally.messages()
}

fn cut_at_every_message(strategy: Strategy) -> Seen {
    let mut seen = Seen::default();
    for seed in 0..4 {
        // A guest that touches missing pages makes a few messages more or less each time.
        for message in 0..messages_of(strategy, seed) + 2 {
            for cut in CUTS {
                let context = format!("{strategy} seed {seed} {cut:?} message {message}");
                let mut source = boot(seed);
                let mut attempt = Try::new(strategy);
                // A flipped bit in a page of a running guest is found by the digest alone.
                attempt.options.verify = Verify::BeforeStart;
                attempt.options.downtime_limit = limit_of(strategy, seed);
                attempt.tally = Tally::cut_at(message, cut);
                let tried = attempt.run(&mut source);
                match tried.report.outcome {
                    Outcome::Completed => seen.arrived += 1,
                    Outcome::Failed | Outcome::Cancelled => seen.stayed += 1,
                    Outcome::Unknown => seen.unknown += 1,
                    Outcome::Interrupted => seen.interrupted += 1,
                    Outcome::Ended => panic!("{context}: nobody ended the guest"),
                }
                let stayed = tried.report.outcome == Outcome::Failed;
                let holder = tried.assert_one_guest(source, &context);
                if stayed {
                    let mut source = holder.expect("it stayed");
                    let again = Try::new(strategy).run(&mut source);
                    assert_eq!(
                        again.report.outcome,
                        Outcome::Completed,
                        "{context}, second try: {:?}",
                        again.report.error
                    );
                    again.assert_one_guest(source, &context);
                }
            }
        }
    }
    seen
}

#[test]
fn stop_and_copy() {
    let seen = cut_at_every_message(Strategy::StopAndCopy);
    assert!(seen.stayed > 20 && seen.unknown > 0, "{seen:?}");
}

#[test]
fn pre_copy() {
    let seen = cut_at_every_message(Strategy::PreCopy);
    assert!(seen.stayed > 20 && seen.unknown > 0, "{seen:?}");
}

#[test]
fn post_copy() {
    let seen = cut_at_every_message(Strategy::PostCopy);
    assert!(seen.stayed > 20 && seen.unknown > 0 && seen.interrupted > 0, "{seen:?}");
}

#[test]
fn hybrid() {
    let seen = cut_at_every_message(Strategy::Hybrid);
    assert!(seen.stayed > 20 && seen.unknown > 0 && seen.interrupted > 0, "{seen:?}");
}
