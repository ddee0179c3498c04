//! How a process goes on after each outcome.

use super::*;
use crate::daemon::{ConsoleLog, Facts};
use engine::{
    progress::Phase,
    sim::{SimVm, SimWorkload},
};

fn daemon() -> Arc<Daemon> {
    let workload =
        SimWorkload { seed: 1, working_set: 8, rate: Some(1000.0), zero_one_in: 0, network: false };
    let vm = SimVm::boot("vm", 64, workload).unwrap();
    let machine = Machine::Simulated(Box::new(vm));
    Daemon::with_machine("vm", machine, Facts::default(), Arc::<ConsoleLog>::default())
}

/// As if the engine had ended so.
fn end_with(daemon: &Arc<Daemon>, outcome: Outcome) {
    let progress = Arc::default();
    let (mut machine, was) =
        daemon.give_to_engine(&Interrupt::default(), &progress, "tcp://there:1").unwrap();
    let mut report = Report::new(Strategy::PreCopy, &machine.describe(), &Options::default());
    report.outcome = outcome;
    machine.pause().unwrap();
    daemon.migrated(machine, was, report, "tcp://there:1");
}

#[test]
fn a_guest_that_does_not_move_stands_as_it_stood() {
    let daemon = daemon();
    for outcome in [Outcome::Failed, Outcome::Cancelled] {
        for (act, status) in
            [(Daemon::pause as fn(&Daemon) -> _, "paused"), (|daemon| daemon.resume(false), "running")]
        {
            act(&daemon).unwrap();
            end_with(&daemon, outcome);
            assert_eq!(daemon.status().status, status);
        }
    }
}

#[test]
fn a_guest_in_doubt_stays_paused_until_it_is_forced() {
    for outcome in [Outcome::Unknown, Outcome::Interrupted] {
        let daemon = daemon();
        end_with(&daemon, outcome);
        assert_eq!(daemon.status().status, format!("{outcome:?}").to_lowercase());
        assert!(matches!(daemon.resume(false), Err(Refusal::InDoubt)));
        assert!(matches!(daemon.pause(), Err(Refusal::InDoubt)));
        assert!(matches!(daemon.check(), Err(Refusal::InDoubt)));
        daemon.resume(true).unwrap();
        assert_eq!(daemon.status().status, "running");
    }
}

#[test]
fn a_guest_that_was_to_stop_stops_once_the_engine_gives_it_back() {
    let daemon = daemon();
    let (machine, was) =
        daemon.give_to_engine(&Interrupt::default(), &Arc::default(), "tcp://there:1").unwrap();
    daemon.stop(false).unwrap();
    assert_eq!(daemon.end(), None);
    let report = Report::new(Strategy::PreCopy, &machine.describe(), &Options::default());
    daemon.migrated(machine, was, report, "tcp://there:1");
    assert_eq!(daemon.end(), Some(End::Stopped));
}

/// Entries 4 and 5: a guest at a destination needs the pages that are here, so neither a signal nor `ferry stop` ends this.
#[test]
fn entry_5_a_process_that_another_host_depends_on_is_ended_by_force_alone() {
    let daemon = daemon();
    let progress = Arc::<Progress>::default();
    let _given = daemon.give_to_engine(&Interrupt::default(), &progress, "tcp://there:1").unwrap();
    progress.begin(Phase::Push, 12_345);
    for refused in [daemon.stop(false), daemon.stop(false), daemon.cancel()] {
        let words = refused.unwrap_err().to_string();
        assert!(words.starts_with("too late: vm runs at tcp://there:1; 12 345 pages to go"), "{words}");
        assert!(words.contains("`ferry stop --force vm`"), "{words}");
    }
    assert_eq!(daemon.end(), None);
    daemon.stop(true).unwrap();
    assert_eq!(daemon.end(), Some(End::Stopped));
}

#[test]
fn a_process_whose_vm_has_moved_ends_once_its_report_is_fetched() {
    let daemon = daemon();
    let moved = {
        let daemon = daemon.clone();
        thread::spawn(move || end_with(&daemon, Outcome::Completed))
    };
    while daemon.migration(true).report.is_none() {
        thread::yield_now();
    }
    moved.join().unwrap();
    assert_eq!(daemon.end(), Some(End::Moved { to: "tcp://there:1".to_owned() }));
    assert!(matches!(daemon.resume(true), Err(Refusal::Moved { .. })));
}
