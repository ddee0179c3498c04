//! A report's figures add up.

use std::time::Duration;

use engine::{
    options::Verify,
    report::{Outcome, Report},
    sim::{Cut, SimVm, SimWorkload, Tally},
    strategy::Strategy,
};

use crate::one_guest::{PAGES, Try, boot, workload};

/// Every sum of a report, to the last byte and microsecond.
fn assert_adds_up(report: &Report, context: &str) {
    let moved = &report.moved;
    let rounds = moved.rounds.iter().map(|round| (round.pages, round.zero_pages, round.bytes));
    let last = moved.final_pages.map(|last| (last.pages, last.zero_pages, last.bytes));
    let push = moved.push.map(|push| (push.pages, push.zero_pages, push.bytes));
    let served = Some((moved.served.pages, moved.served.zero_pages, moved.served.bytes));
    let parts = rounds.chain(last).chain(push).chain(served);
    let sums = parts.fold((0, 0, 0), |sums, part| (sums.0 + part.0, sums.1 + part.1, sums.2 + part.2));
    assert_eq!(sums, (moved.pages_sent, moved.zero_pages, moved.bytes_sent), "{context}: {moved:?}");
    assert_eq!(report.phases_us.total_us(), report.total_us, "{context}");
    assert_eq!(report.phases_us.setup, moved.setup_us, "{context}");
    let rounds_us: u64 = moved.rounds.iter().map(|round| round.duration_us).sum();
    assert_eq!(report.phases_us.rounds, rounds_us, "{context}");
    if let Some(downtime) = moved.downtime_engine_us {
        assert_eq!(moved.downtime_parts_us.total_us(), downtime, "{context}");
    }
}

#[test]
fn entry_19_the_report_adds_up_with_every_strategy() {
    for strategy in Strategy::ALL {
        for seed in 0..20 {
            let context = format!("{strategy} seed {seed}");
            let mut source = boot(seed);
            let mut attempt = Try::new(strategy);
            attempt.options.verify = Verify::AfterStart;
            let tried = attempt.run(&mut source);
            let report = &tried.report;
            assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
            assert_adds_up(report, &context);
            assert!(report.total_us > 0 && report.moved.final_pages.is_some(), "{context}");
            let is_pre_copy = strategy == Strategy::PreCopy;
            assert_eq!(report.downtime_limit_kept.is_some(), is_pre_copy, "{context}");
            if is_pre_copy {
                let kept = report.moved.downtime_engine_us.unwrap() <= report.options.downtime_limit_us;
                assert_eq!(report.downtime_limit_kept, Some(kept), "{context}");
            }
            tried.assert_one_guest(source, &context).expect("it arrived");
        }
    }
}

#[test]
fn entry_19_the_report_of_a_migration_that_is_cut_anywhere_adds_up() {
    for strategy in Strategy::ALL {
        let mut counted = Try::new(strategy);
        counted.tally = Tally::count_only();
        let tally = counted.tally.clone();
        counted.run(&mut boot(1));
        for at in (0..tally.messages()).step_by(3) {
            let mut attempt = Try::new(strategy);
            attempt.tally = Tally::cut_at(at, Cut::Before);
            let report = attempt.run(&mut boot(1)).report;
            assert_adds_up(&report, &format!("{strategy} cut at {at}: {:?}", report.outcome));
            assert!(report.total_us > 0, "{strategy} cut at {at}");
        }
    }
}

#[test]
fn entry_19_a_guest_that_is_given_up_has_a_report_that_adds_up() {
    let workload = SimWorkload { working_set: PAGES, rate: Some(200_000.0), ..workload(5) };
    let mut source = SimVm::boot("sim", PAGES, workload).expect("memory");
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.max_bandwidth = Some(400_000_000);
    attempt.options.downtime_limit = Duration::from_millis(2);
    let tried = attempt.run(&mut source);
    assert_eq!(tried.report.outcome, Outcome::Failed);
    assert!(tried.report.moved.final_pages.is_none());
    assert_adds_up(&tried.report, "given up");
}

/// Issue 12, entry 13: a rehearsal pauses the guest, too. That is counted, and not done four times
/// where each takes long.
#[test]
fn entry_13_rehearsals_on_a_slow_disk_are_few_and_counted() {
    let nap = Duration::from_millis(25);
    for (slow, rehearsals) in [(true, 1..=1), (false, 1..=4)] {
        let mut source = boot(1);
        if slow {
            source.drain_slowly(nap);
        }
        let tried = Try::new(Strategy::StopAndCopy).run(&mut source);
        assert_eq!(tried.report.outcome, Outcome::Completed, "{:?}", tried.report.error);
        if slow {
            assert!(tried.report.rehearsal_us >= nap.as_micros() as u64, "{} us", tried.report.rehearsal_us);
        }
        let vm = tried.assert_one_guest(source, "rehearsed").expect("it arrived");
        // One more save is that of the switchover.
        let saves = vm.guest().expect("a guest").saves;
        assert!(rehearsals.contains(&(saves - 1)), "{saves} saves");
    }
}
