//! Every strategy, a thousand seeds each: the guest arrives, runs on, and every page is right.

use std::time::Duration;

use crate::one_guest::{Try, assert_no_frame_lost, boot, workload};
use engine::{options::Verify, report::Outcome, strategy::Strategy};

const SEEDS: u64 = 1000;
/// Of hybrid, from one that leaves all dirty pages missing to one that leaves none.
const LIMITS_US: [u64; 7] = [0, 50, 100, 200, 400, 800, 50_000];

fn every_seed(strategy: Strategy) {
    let mut pushed = 0;
    for seed in 0..SEEDS {
        let mut source = boot(seed);
        let mut attempt = Try::new(strategy);
        attempt.options.verify =
            [Verify::No, Verify::BeforeStart, Verify::AfterStart][(seed / 3 % 3) as usize];
        if strategy == Strategy::Hybrid {
            attempt.options.downtime_limit = Duration::from_micros(LIMITS_US[(seed % 7) as usize]);
        }
        let verify = attempt.options.verify;
        let tried = attempt.run(&mut source);
        let context = format!("{strategy} seed {seed}");
        assert_eq!(tried.report.outcome, Outcome::Completed, "{context}: {:?}", tried.report.error);
        assert_eq!(tried.report.verified, (verify != Verify::No).then_some(true), "{context}");
        let moved = &tried.report.moved;
        pushed += u64::from(moved.push.is_some_and(|push| push.pages > 0));
        let steps = source.guest().expect("a guest").steps;
        let (carried, frames_sent) = (tried.report.moved.network_frames_carried, source.frames_sent());
        let arrived = tried.assert_one_guest(source, &context).expect("it arrived");
        assert!(arrived.guest().expect("a guest").steps > steps, "{context}: it runs on");
        if workload(seed).network {
            assert!(carried > 0, "{context}: frames came while it stood still");
            assert_no_frame_lost(frames_sent, &arrived, &context);
        }
    }
    let misses_pages = matches!(strategy, Strategy::PostCopy | Strategy::Hybrid);
    assert_eq!(pushed > 0, misses_pages, "{strategy}: {pushed} guests started with pages missing");
    assert!(strategy == Strategy::PostCopy || pushed < SEEDS, "{strategy}: none had all of its pages");
}

#[test]
fn stop_and_copy() {
    every_seed(Strategy::StopAndCopy);
}

#[test]
fn pre_copy() {
    every_seed(Strategy::PreCopy);
}

#[test]
fn post_copy() {
    every_seed(Strategy::PostCopy);
}

#[test]
fn hybrid() {
    every_seed(Strategy::Hybrid);
}
