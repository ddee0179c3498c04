//! What went wrong once must not spoil the next try, and moving on must work as well as moving.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::one_guest::{PAGES, Try, boot, workload};
use engine::{
    destination::ReceiveError,
    options::Verify,
    progress::Phase,
    report::Outcome,
    sim::{Fault, SimVm, SimWorkload},
    strategy::Strategy,
};

/// Moves a guest that must arrive.
fn moved(mut source: SimVm, strategy: Strategy, context: &str) -> SimVm {
    let mut attempt = Try::new(strategy);
    attempt.options.verify = Verify::BeforeStart;
    let tried = attempt.run(&mut source);
    assert_eq!(tried.report.outcome, Outcome::Completed, "{context}: {:?}", tried.report.error);
    tried.assert_one_guest(source, context).expect("it arrived")
}

#[test]
fn ten_moves_in_a_row_by_changing_strategies() {
    for seed in 0..30 {
        let mut vm = boot(seed);
        for hop in 0..10 {
            let strategy = Strategy::ALL[((seed + hop) % 4) as usize];
            vm = moved(vm, strategy, &format!("seed {seed} hop {hop}"));
        }
    }
}

#[test]
fn a_fault_at_the_source_leaves_the_guest_running_and_the_next_try_succeeds() {
    for strategy in Strategy::ALL {
        // The rehearsal is the first pause and the first save, or a few of them on a busy host.
        for (fault, after) in [
            (Fault::Pause, 0),
            (Fault::Pause, 1),
            (Fault::Save, 0),
            (Fault::Save, 1),
            (Fault::TakeDirty, 0),
            (Fault::TakeDirty, 1),
            (Fault::Release, 0),
        ] {
            let context = format!("{strategy} {fault:?} after {after}");
            let mut source = boot(1);
            source.fail_after(fault, after);
            let tried = Try::new(strategy).run(&mut source);
            let expected = if fault == Fault::TakeDirty
                && matches!(strategy, Strategy::StopAndCopy | Strategy::PostCopy)
            {
                Outcome::Completed
            } else {
                Outcome::Failed
            };
            assert_eq!(tried.report.outcome, expected, "{context}: {:?}", tried.report.error);
            let holder = tried.assert_one_guest(source, &context).expect("somebody has it");
            moved(holder, strategy, &context);
        }
    }
}

#[test]
fn a_fault_at_the_destination_before_the_handover_is_told_and_the_next_try_succeeds() {
    for strategy in Strategy::ALL {
        // The destination rehearses three times.
        for after in [0, 1, 3] {
            let context = format!("{strategy} load after {after}");
            let mut source = boot(2);
            let mut attempt = Try::new(strategy);
            attempt.host.fault = Some((Fault::Load, after));
            let tried = attempt.run(&mut source);
            assert_eq!(tried.report.outcome, Outcome::Failed, "{context}");
            let error = tried.report.error.clone().unwrap_or_default();
            assert!(error.contains("load the state: a simulated fault"), "{context}: {error}");
            let holder = tried.assert_one_guest(source, &context).expect("it stayed");
            moved(holder, strategy, &context);
        }
    }
}

#[test]
fn a_vm_too_large_is_refused_before_anything_moves() {
    let mut source = boot(4);
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.host.max_pages = PAGES - 1;
    let tried = attempt.run(&mut source);
    let error = tried.report.error.clone().unwrap_or_default();
    assert!(error.starts_with("the destination refuses: ") && error.contains("has 700 pages"), "{error}");
    assert_eq!(tried.report.moved.pages_sent, 0);
    tried.assert_one_guest(source, "too large");
}

#[test]
fn a_guest_that_writes_faster_than_the_link_is_given_up_and_runs_on() {
    let mut source =
        SimVm::boot("sim", PAGES, SimWorkload { working_set: PAGES, rate: Some(200_000.0), ..workload(5) })
            .expect("memory");
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.max_bandwidth = Some(400_000_000);
    attempt.options.downtime_limit = Duration::from_millis(2);
    let tried = attempt.run(&mut source);
    let error = tried.report.error.clone().unwrap_or_default();
    assert!(error.contains("pre-copy does not converge") && error.contains("about"), "{error}");
    assert!(error.contains("post-copy would take about") && !error.contains("--max-rounds"), "{error}");
    tried.assert_one_guest(source, "not converging");
}

/// Issue 12, entry 26: what a switchover takes without any page is known by then.
#[test]
fn entry_26_a_limit_below_the_fixed_part_is_refused_before_anything_moves() {
    let mut source = boot(5);
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.downtime_limit = Duration::from_nanos(1);
    let tried = attempt.run(&mut source);
    let error = tried.report.error.clone().unwrap_or_default();
    assert!(error.contains("cannot be kept"), "{error}");
    assert_eq!(tried.report.moved.rounds.len(), 0, "nothing was sent");
    tried.assert_one_guest(source, "refused");
}

/// A guest that writes a few pages over and over is seen to, and what a look takes out of the log is sent again.
#[test]
fn entry_16_a_look_at_the_log_within_a_round_tells_the_rate_and_loses_no_page() {
    let saw = (0..10).filter(|&seed| {
        let workload = SimWorkload { working_set: 50, rate: Some(20_000.0), ..workload(seed) };
        let mut source = SimVm::boot("sim", PAGES, workload).expect("memory");
        let mut attempt = Try::new(Strategy::PreCopy);
        attempt.options.max_bandwidth = Some(400_000_000);
        attempt.options.verify = Verify::BeforeStart;
        attempt.options.downtime_limit = Duration::from_millis(500);
        let tried = attempt.run(&mut source);
        assert_eq!(tried.report.outcome, Outcome::Completed, "{seed}: {:?}", tried.report.error);
        let first = tried.report.moved.rounds[0];
        let distinct = first.dirtied_pages as f64 / (first.duration_us as f64 / 1e6);
        tried.assert_one_guest(source, &format!("seed {seed}")).expect("it arrived");
        first.dirty_pages_per_second_estimated as f64 > 1.5 * distinct
    });
    assert!(saw.count() > 0, "no round was long enough for a look, or none saw more");
}

#[test]
fn entry_16_a_timeout_says_what_was_known_by_then() {
    let workload = SimWorkload { working_set: 400, rate: Some(10_000.0), ..workload(5) };
    let mut source = SimVm::boot("sim", PAGES, workload).expect("memory");
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.max_bandwidth = Some(100_000_000);
    attempt.options.downtime_limit = Duration::from_millis(20);
    attempt.options.timeout = Some(Duration::from_millis(300));
    let tried = attempt.run(&mut source);
    let error = tried.report.error.clone().unwrap_or_default();
    // Round 0 takes a quarter of a second: a busy host may not get through it, or further.
    if !tried.report.moved.rounds.is_empty() && error.contains("--timeout allows: ") {
        assert!(error.contains("the guest dirties about"), "{error}");
    }
    assert!(error.contains("--timeout") || error.contains("does not converge"), "{error}");
    tried.assert_one_guest(source, "timed out");
}

/// Cancels a slow migration as soon as it is in `phase`, and moves the guest afterwards.
fn cancel_in(phase: Phase, strategy: Strategy) {
    let context = format!("{strategy} cancelled in {phase:?}");
    let mut source = boot(6);
    let mut attempt = Try::new(strategy);
    // 700 pages take a second and a half.
    attempt.options.max_bandwidth = Some(16_000_000);
    let (interrupt, progress) = (attempt.interrupt.clone(), Arc::clone(&attempt.progress));
    let tried = thread::scope(|scope| {
        scope.spawn(move || {
            while progress.snapshot().phase != phase {
                thread::sleep(Duration::from_millis(1));
            }
            interrupt.raise();
        });
        attempt.run(&mut source)
    });
    assert_eq!(tried.report.outcome, Outcome::Cancelled, "{context}: {:?}", tried.report.error);
    assert!(
        matches!(tried.destination, Err(ReceiveError::Aborted { .. })),
        "{context}: {:?}",
        tried.destination.err()
    );
    let holder = tried.assert_one_guest(source, &context).expect("it stayed");
    moved(holder, strategy, &context);
}

#[test]
fn a_cancel_during_the_rounds_or_the_switchover_leaves_the_guest_running() {
    cancel_in(Phase::Rounds, Strategy::PreCopy);
    cancel_in(Phase::Switchover, Strategy::StopAndCopy);
}

#[test]
fn entry_20_a_cancel_during_setup_is_reported_as_cancelled_with_its_time() {
    for strategy in Strategy::ALL {
        let mut source = boot(6);
        let attempt = Try::new(strategy);
        attempt.interrupt.raise();
        let tried = attempt.run(&mut source);
        let report = tried.report.clone();
        assert_eq!(report.outcome, Outcome::Cancelled, "{strategy}: {:?}", report.error);
        assert!(report.total_us > 0 && report.phases_us.setup == report.total_us, "{strategy}");
        assert_eq!(report.moved.setup_us, report.total_us, "{strategy}");
        tried.assert_one_guest(source, "cancelled in setup").expect("it stayed");
    }
}

#[test]
fn a_cancel_after_the_handover_comes_too_late() {
    let mut source = boot(7);
    let mut attempt = Try::new(Strategy::PostCopy);
    attempt.options.max_bandwidth = Some(16_000_000);
    let (interrupt, progress) = (attempt.interrupt.clone(), Arc::clone(&attempt.progress));
    let tried = thread::scope(|scope| {
        scope.spawn(move || {
            while progress.snapshot().phase != Phase::Push {
                thread::sleep(Duration::from_millis(1));
            }
            interrupt.raise();
        });
        attempt.run(&mut source)
    });
    assert_eq!(tried.report.outcome, Outcome::Completed, "{:?}", tried.report.error);
    tried.assert_one_guest(source, "cancelled too late");
}

/// Whoever looks at a guest that has moved is not told that it stands still.
#[test]
fn comparing_digests_is_a_phase_of_its_own() {
    // It lasts for a moment, which whoever looks may sleep through on a busy host.
    assert!((0..10).any(is_seen_comparing));
}

fn is_seen_comparing(seed: u64) -> bool {
    let mut source = boot(seed);
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.verify = Verify::AfterStart;
    let progress = Arc::clone(&attempt.progress);
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let begin = Instant::now();
            let mut phase = progress.snapshot().phase;
            while !matches!(phase, Phase::Verify | Phase::Ended) && begin.elapsed() < Duration::from_secs(20)
            {
                thread::sleep(Duration::from_millis(1));
                phase = progress.snapshot().phase;
            }
            phase == Phase::Verify
        });
        let tried = attempt.run(&mut source);
        assert_eq!(tried.report.verified, Some(true));
        watcher.join().unwrap()
    })
}

#[test]
fn a_timeout_ends_it_before_the_handover() {
    let mut source = boot(8);
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.max_bandwidth = Some(16_000_000);
    attempt.options.timeout = Some(Duration::from_millis(100));
    let tried = attempt.run(&mut source);
    assert_eq!(tried.report.outcome, Outcome::Failed);
    assert!(tried.report.error.clone().unwrap_or_default().contains("--timeout"));
    tried.assert_one_guest(source, "timed out");
}
