//! A guest that its user has paused moves as any other, and nobody else runs it.

use std::{thread, time::Duration};

use engine::{
    report::Outcome,
    sim::{Cut, SimVm, Tally},
    strategy::Strategy,
    vm::{HeldVm, SourceVm},
};

use crate::one_guest::{Try, assert_memory_right, boot};

/// A guest that has run a little, and its steps so far.
fn paused(seed: u64) -> (SimVm, u64) {
    let mut vm = boot(seed);
    vm.pause().expect("pauses");
    let steps = vm.guest().expect("a guest").steps;
    (vm, steps)
}

fn assert_stands(vm: &SimVm, steps: u64, context: &str) {
    assert!(!vm.is_running(), "{context}: somebody ran it");
    assert_eq!(vm.guest().expect("a guest").steps, steps, "{context}");
    assert_memory_right(vm, context);
}

/// Moves it, and lets it run where it came to.
fn moves_and_runs(mut source: SimVm, steps: u64, strategy: Strategy, context: &str) {
    let tried = Try::new(strategy).run(&mut HeldVm(&mut source));
    assert_eq!(tried.report.outcome, Outcome::Completed, "{context}: {:?}", tried.report.error);
    assert!(tried.report.paused, "{context}");
    let arrival = tried.destination.expect("it arrived");
    assert!(arrival.description.paused, "{context}");
    let mut arrived = arrival.vm;
    assert_stands(&arrived, steps, context);
    assert_stands(&source, steps, context);
    let frames = source.frames_sent();
    arrived.resume().expect("runs on");
    assert!(arrived.is_running(), "{context}");
    // Its network waited for it; what was carried over may come on a thread of its own.
    for _ in 0..10_000 {
        if arrived.guest().is_some_and(|guest| guest.next_frame >= frames) {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let guest = arrived.guest().expect("a guest");
    assert_eq!((guest.next_frame, guest.frames_lost, guest.errors), (frames, 0, 0), "{context}");
    // And it moves on, as one that runs.
    let tried = Try::new(strategy).run(&mut arrived);
    assert!(!tried.report.paused, "{context}");
    tried.assert_one_guest(arrived, context);
}

#[test]
fn it_arrives_paused_by_each_strategy_and_runs_when_it_is_resumed() {
    for strategy in Strategy::ALL {
        for seed in 0..40 {
            let (source, steps) = paused(seed);
            moves_and_runs(source, steps, strategy, &format!("{strategy} seed {seed}"));
        }
    }
}

#[test]
fn it_stands_still_wherever_it_is_when_the_link_is_cut_at_any_message() {
    for strategy in Strategy::ALL {
        for cut in [Cut::Before, Cut::Within, Cut::After] {
            for message in 0.. {
                let context = format!("{strategy} cut {cut:?} message {message}");
                // Without a network: what a failed try gives back to a guest that still stands waits in its machine, and
                // a simulated one does not save that.
                let (mut source, steps) = paused(2 * message + 1);
                let tally = Tally::cut_at(message, cut);
                let tried = Try { tally: tally.clone(), ..Try::new(strategy) }.run(&mut HeldVm(&mut source));
                assert_stands(&source, steps, &context);
                if let Ok(arrival) = &tried.destination {
                    assert_stands(&arrival.vm, steps, &context);
                }
                match tried.report.outcome {
                    Outcome::Failed => moves_and_runs(source, steps, strategy, &context),
                    Outcome::Completed | Outcome::Unknown | Outcome::Interrupted => {}
                    Outcome::Cancelled | Outcome::Ended => panic!("{context}: nobody wanted that"),
                }
                if tally.messages() <= message {
                    break;
                }
            }
        }
    }
}
