//! Every strategy, a thousand seeds each: the guest arrives, runs on, and every page is right.

use crate::one_guest::{Try, assert_no_frame_lost, boot, workload};
use engine::{options::Verify, report::Outcome, strategy::Strategy};

const SEEDS: u64 = 1000;

fn every_seed(strategy: Strategy) {
    for seed in 0..SEEDS {
        let mut source = boot(seed);
        let mut attempt = Try::new(strategy);
        attempt.options.verify =
            [Verify::No, Verify::BeforeStart, Verify::AfterStart][(seed / 3 % 3) as usize];
        let verify = attempt.options.verify;
        let tried = attempt.run(&mut source);
        let context = format!("{strategy} seed {seed}");
        assert_eq!(tried.report.outcome, Outcome::Completed, "{context}: {:?}", tried.report.error);
        assert_eq!(tried.report.verified, (verify != Verify::No).then_some(true), "{context}");
        let steps = source.guest().expect("a guest").steps;
        let (carried, frames_sent) = (tried.report.moved.network_frames_carried, source.frames_sent());
        let arrived = tried.assert_one_guest(source, &context).expect("it arrived");
        assert!(arrived.guest().expect("a guest").steps > steps, "{context}: it runs on");
        if workload(seed).network {
            assert!(carried > 0, "{context}: frames came while it stood still");
            assert_no_frame_lost(frames_sent, &arrived, &context);
        }
    }
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
