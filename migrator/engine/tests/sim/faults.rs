//! Faults that an operator met: each as the smallest input that showed it, with the right result.

use std::{thread, time::Duration};

use crate::one_guest::{Try, assert_memory_right, boot};
use engine::{
    destination::ReceiveError,
    options::Verify,
    report::{GuestEnd, Outcome, in_words},
    sim::{Cut, Fault, SimVm, Tally},
    strategy::Strategy,
    vm::{PAGES_MISSING, SourceVm},
};

/// A destination whose source was cut off while pages were missing.
fn interrupted() -> SimVm {
    for message in 0..200 {
        let mut source = boot(1);
        let mut attempt = Try::new(Strategy::PostCopy);
        attempt.tally = Tally::cut_at(message, Cut::Before);
        if let Err(ReceiveError::Interrupted { vm, missing_pages, .. }) = attempt.run(&mut source).destination
        {
            assert!(missing_pages > 0);
            return *vm;
        }
    }
    panic!("no cut leaves a destination with pages missing");
}

/// Entry 24: what is missing is not zeros. It was resumed by force, sent on as never touched, and passed as whole.
#[test]
fn entry_24_a_guest_with_pages_missing_is_neither_run_nor_moved() {
    let mut vm = interrupted();
    let refused = vm.resume().expect_err("it has holes");
    assert!(in_words(&refused).contains(PAGES_MISSING), "{refused}");
    // What a migration of it would begin with.
    for refused in [vm.start_dirty_log().err(), vm.save_state().err()] {
        assert!(in_words(&refused.expect("it has holes")).contains(PAGES_MISSING));
    }
}

/// Entry 1: the destination says that it did not start the guest, so it runs on at the source.
#[test]
fn entry_1_a_definite_no_gives_the_guest_back() {
    for strategy in Strategy::ALL {
        for fault in [Fault::Claim, Fault::Start] {
            let context = format!("{strategy} {fault:?}");
            let mut source = boot(3);
            let mut attempt = Try::new(strategy);
            attempt.host.fault = Some((fault, 0));
            let tried = attempt.run(&mut source);
            assert_eq!(tried.report.outcome, Outcome::Failed, "{context}: {:?}", tried.report.error);
            let error = tried.report.error.clone().unwrap_or_default();
            assert!(error.contains("a simulated fault"), "{context}: {error}");
            assert!(matches!(tried.destination, Err(ReceiveError::Start(_))), "{context}");
            let mut source = tried.assert_one_guest(source, &context).expect("it stayed");
            let again = Try::new(strategy).run(&mut source);
            assert_eq!(again.report.outcome, Outcome::Completed, "{context}: {:?}", again.report.error);
            again.assert_one_guest(source, &context);
        }
    }
}

/// Entry 2: a Start holds for as long as the source waits, and one that is read later is asked about. Either side is
/// stopped for a while at each message: for less than the source waits, and for more.
#[test]
fn entry_2_a_start_that_is_read_late_is_not_obeyed_unasked() {
    // Which message is the last before Start depends on frames of the network: with luck once is enough.
    let withdrawn = (0..10).any(|_| withdrawn_in_a_sweep() > 0);
    assert!(withdrawn, "no Start was read too late");
}

/// Every strategy and message, each with a short stop and a long one. They mostly wait, so they do it side by side.
fn withdrawn_in_a_sweep() -> u32 {
    thread::scope(|scope| {
        let stops = [ANSWER_TIMEOUT * 3 / 4, ANSWER_TIMEOUT * 3];
        let tries = Strategy::ALL.into_iter().flat_map(|strategy| stops.map(|stop| (strategy, stop)));
        let threads: Vec<_> =
            tries.map(|(strategy, stop)| scope.spawn(move || stop_at_each_message(strategy, stop))).collect();
        threads.into_iter().map(|thread| thread.join().expect("one guest")).sum()
    })
}

/// For a destination that is stopped in a test.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(120);

/// Returns how often a Start was withdrawn.
fn stop_at_each_message(strategy: Strategy, stop: Duration) -> u32 {
    let mut withdrawn = 0;
    for message in 0..60 {
        let context = format!("{strategy} stopped for {stop:?} at message {message}");
        let mut source = boot(2);
        let mut attempt = Try::new(strategy);
        attempt.options.answer_timeout = ANSWER_TIMEOUT;
        attempt.tally = Tally::cut_at(message, Cut::Stop(stop));
        let tally = attempt.tally.clone();
        let tried = attempt.run(&mut source);
        if matches!(tried.destination, Err(ReceiveError::Withdrawn)) {
            assert_eq!(tried.report.outcome, Outcome::Unknown, "{context}");
            withdrawn += 1;
        }
        tried.assert_one_guest(source, &context);
        if tally.messages() <= message {
            break;
        }
    }
    withdrawn
}

/// Entry 3: a source that hangs up while the destination still opens the disks may have resumed its guest.
#[test]
fn entry_3_a_source_that_hangs_up_while_the_disks_are_opened_is_not_obeyed() {
    let mut withdrawn = 0;
    for strategy in Strategy::ALL {
        for message in 0..60 {
            let context = format!("{strategy} cut after message {message}");
            let mut source = boot(2);
            let mut attempt = Try::new(strategy);
            attempt.host.claim_nap = Duration::from_millis(30);
            attempt.tally = Tally::cut_at(message, Cut::After);
            let tally = attempt.tally.clone();
            let tried = attempt.run(&mut source);
            withdrawn += u32::from(matches!(tried.destination, Err(ReceiveError::Withdrawn)));
            tried.assert_one_guest(source, &context);
            if tally.messages() <= message {
                break;
            }
        }
    }
    assert!(withdrawn > 0, "no source hung up meanwhile");
}

/// Entry 4: the end of a guest whose pages are still coming reaches the source, which need not keep them.
#[test]
fn entry_4_the_end_of_a_guest_is_told_to_its_source() {
    for seed in 0..20 {
        let mut source = boot(seed);
        let mut attempt = Try::new(Strategy::PostCopy);
        attempt.options.max_bandwidth = Some(16_000_000);
        let end = GuestEnd { exit_code: 7, words: "the guest exited with code 7".to_owned() };
        attempt.guest_end = Some(end.clone());
        let tried = attempt.run(&mut source);
        assert_eq!(tried.report.outcome, Outcome::Ended, "seed {seed}: {:?}", tried.report.error);
        assert_eq!(tried.report.guest_end.as_ref(), Some(&end));
        tried.assert_one_guest(source, &format!("seed {seed}"));
    }
}

/// Entry 4: after the handover a link that is lost, and a bit that is flipped, cost no page: what did not come is requested,
/// or pushed, again over a link that lives.
#[test]
fn entry_4_a_lost_link_or_a_damaged_page_costs_no_page_after_the_handover() {
    let mut seen = (0, 0);
    for seed in 0..4 {
        for cut in [Cut::Flip, Cut::Lose] {
            for message in 0..80 {
                let context = format!("seed {seed} {cut:?} message {message}");
                let mut source = boot(seed);
                let mut attempt = Try::new(Strategy::PostCopy);
                attempt.options.verify = Verify::AfterStart;
                attempt.tally = Tally::cut_at(message, cut);
                let tally = attempt.tally.clone();
                let tried = attempt.run(&mut source);
                match tried.report.outcome {
                    Outcome::Completed => seen.0 += 1,
                    Outcome::Interrupted => seen.1 += 1,
                    _ => {}
                }
                // Without its control link the source does not hear that all came; but it did.
                assert!(
                    tried.report.outcome != Outcome::Interrupted || tried.destination.is_ok(),
                    "{context}: {:?}, {:?}",
                    tried.report.error,
                    tried.destination.err()
                );
                tried.assert_one_guest(source, &context);
                if tally.messages() <= message {
                    break;
                }
            }
        }
    }
    assert!(seen.0 > 40, "{seen:?}");
}

/// Entry 1: the source cannot take back what it let go of. The guest stays paused, and the report says why.
#[test]
fn entry_1_a_guest_that_cannot_be_resumed_is_said_to_be_paused() {
    let mut source = boot(3);
    source.fail_after(Fault::Resume, 1);
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.host.fault = Some((Fault::Claim, 0));
    let tried = attempt.run(&mut source);
    assert_eq!(tried.report.outcome, Outcome::Failed);
    let error = tried.report.error.unwrap_or_default();
    assert!(error.contains("a simulated fault") && error.contains("paused"), "{error}");
    assert!(tried.report.paused && !source.is_running());
    assert_memory_right(&source, "kept");
    source.mend(Fault::Resume);
    source.resume().expect("it can be resumed later");
}
