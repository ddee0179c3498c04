//! Moving a simulated guest between processes.

use std::{thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::ferry::{Host, await_that};

/// Slow enough that there is time to do something meanwhile: 16 MiB at 8 Mbit/s are 16 s.
const SLOW: [&str; 2] = ["--max-bandwidth", "8Mbit"];

#[test]
fn a_guest_moves_by_each_strategy_and_takes_its_own_name() {
    let host = Host::new();
    host.run_sim("guest", &[]);
    for strategy in ["stop-and-copy", "pre-copy", "post-copy"] {
        let done = host.ferry(&["receive", "--simulated", "tcp://127.0.0.1:0", "--detach"]);
        let lines: Vec<&str> = done.succeeds().lines().collect();
        let address = lines[0].strip_prefix("listening on ").unwrap();
        assert_eq!(lines[1], format!("incoming-{}", address.rsplit(':').next().unwrap()));
        assert_eq!(host.status(lines[1]), "receiving");
        assert_eq!(host.info(lines[1])["vm"]["listening"], address);

        let done =
            host.ferry(&["migrate", "guest", address, "-s", strategy, "--verify=after-start", "--json"]);
        let report: Value = serde_json::from_str(done.succeeds()).unwrap();
        assert_eq!(report["outcome"], "completed");
        assert_eq!(report["strategy"], strategy);
        assert_eq!(report["verified"], true);
        await_that("the name goes over", || {
            host.ferry(&["ps", "--json"]).stdout.matches("\"name\": \"guest\"").count() == 1
                && !host.socket(lines[1]).exists()
        });
        assert_eq!(host.status("guest"), "running");
        host.assert_alive("guest");
    }
}

#[test]
fn a_report_for_people_shows_the_downtimes_parts() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let done = host.ferry(&["migrate", "a", &address, "--verify"]);
    for words in [
        "a moved by pre-copy",
        "total time",
        "downtime",
        "save state",
        "round 0",
        "digests of all memory are the same",
    ] {
        assert!(done.succeeds().contains(words), "{words}: {done:?}");
    }
    assert_eq!(host.status("b"), "running");
}

#[test]
fn what_was_booted_is_known_where_the_guest_goes() {
    let host = Host::new();
    host.run_sim("a", &[]);
    for (from, to) in [("a", "b"), ("b", "c")] {
        let address = host.receive(to);
        host.ferry(&["migrate", from, &address]).succeeds();
        let list = host.ferry(&["ps"]);
        let row =
            list.succeeds().lines().find(|row| row.trim_start().starts_with(to)).expect("it runs there");
        assert!(row.trim_end().ends_with("sim"), "{list:?}");
    }
}

#[test]
fn the_source_says_where_its_guest_went() {
    let host = Host::new();
    let run = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    let mut receive = host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--no-console"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    host.ferry(&["migrate", "sim", &address]).succeeds();
    assert_eq!(receive.line(), "sim runs here");
    let end = run.end();
    assert!(end.status.success(), "{end:?}");
    assert!(String::from_utf8_lossy(&end.stderr).contains(&format!("sim moved to {address}")), "{end:?}");
    await_that("the name goes over", || host.ferry(&["info", "sim"]).code == 0);
    host.ferry(&["stop", "sim"]).succeeds();
    assert!(receive.end().status.success());
}

#[test]
fn a_second_migration_and_other_wishes_are_refused_while_one_runs() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let migrate = host.start(&[&["migrate", "a", &address][..], &SLOW].concat());
    host.await_status("a", "migrating");
    host.ferry(&["migrate", "a", &address]).fails(1, &["a is being migrated", "ferry cancel a"]);
    host.ferry(&["pause", "a"]).fails(1, &["a is being migrated"]);
    host.ferry(&["balloon", "a", "1MiB"]).fails(1, &["a is being migrated"]);
    // What needs no machine is answered still.
    assert!(host.info("a")["guest"]["pages_written"].as_u64().unwrap() > 0);
    let cancel = host.ferry(&["cancel", "a"]);
    assert!(cancel.succeeds().contains("a runs on here"), "{cancel:?}");
    let end = migrate.end();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    host.ferry(&["cancel", "a"]).fails(1, &["nothing to cancel"]);
    host.assert_alive("a");
    // And a second try succeeds, with the same destination.
    host.ferry(&["migrate", "a", &address, "--verify"]).succeeds();
    host.assert_alive("b");
}

#[test]
fn ctrl_c_calls_a_migration_off() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let migrate = host.start(&[&["migrate", "a", &address][..], &SLOW].concat());
    host.await_status("a", "migrating");
    thread::sleep(Duration::from_millis(200));
    migrate.signal(Signal::INT);
    let end = migrate.end();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert!(String::from_utf8_lossy(&end.stderr).contains("a runs on here"), "{end:?}");
    host.assert_alive("a");
}

#[test]
fn stopping_a_guest_that_is_being_migrated_calls_that_off_first() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let migrate = host.start(&[&["migrate", "a", &address][..], &SLOW].concat());
    host.await_status("a", "migrating");
    host.ferry(&["stop", "a"]).succeeds();
    let end = migrate.end();
    assert!(!end.status.success(), "{end:?}");
    await_that("it is gone", || !host.socket("a").exists());
    assert_eq!(host.status("b"), "receiving");
}

#[test]
fn a_paused_guest_moves_and_stays_paused_until_it_is_resumed() {
    let host = Host::new();
    host.run_sim("a", &[]);
    host.ferry(&["pause", "a"]).succeeds();
    let written = |name: &str| host.info(name)["guest"]["pages_written"].as_u64().unwrap();
    let before = written("a");
    let hops = [("a", "b", "pre-copy"), ("b", "c", "stop-and-copy"), ("c", "d", "post-copy")];
    for (from, to, strategy) in hops {
        let mut receive =
            host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--name", to, "--no-console"]);
        let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
        // A try that fails leaves it paused here.
        let slow = ["migrate", from, &address, "-s", strategy, "--timeout", "1us"];
        host.ferry(&slow).fails(1, &["stays paused here", "longer than --timeout allows"]);
        assert_eq!(host.status(from), "paused");
        let done = host.ferry(&["migrate", from, &address, "-s", strategy, "--verify"]);
        assert!(done.succeeds().contains("`ferry resume a` runs it"), "{done:?}");
        assert_eq!(receive.line(), "a is here, paused: `ferry resume a` runs it");
        assert_eq!((host.status(to).as_str(), written(to)), ("paused", before));
        host.ferry(&["check", to]).fails(1, &["is paused"]);
        // It lives on by itself; the test ends it by its name.
        std::mem::forget(receive);
    }
    host.ferry(&["resume", "d"]).succeeds();
    assert_eq!(host.status("d"), "running");
    host.assert_alive("d");
}

#[test]
fn a_destination_that_dies_leaves_the_guest_where_it_was() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let mut receive = host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--no-console"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    let migrate = host.start(&[&["migrate", "a", &address][..], &SLOW].concat());
    host.await_status("a", "migrating");
    thread::sleep(Duration::from_millis(300));
    receive.child.kill().unwrap();
    let end = migrate.end();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    host.assert_alive("a");
}

#[test]
fn a_destination_whose_source_dies_waits_for_the_next() {
    let host = Host::new();
    let mut source = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    let address = host.receive("b");
    let migrate = host.start(&[&["migrate", "sim", &address][..], &SLOW].concat());
    host.await_status("sim", "migrating");
    thread::sleep(Duration::from_millis(300));
    source.child.kill().unwrap();
    assert_eq!(migrate.end().status.code(), Some(3), "nobody can say where the guest is");
    host.run_sim("a", &[]);
    host.ferry(&["migrate", "a", &address, "--verify"]).succeeds();
    host.assert_alive("b");
}

#[test]
fn a_source_that_dies_after_the_handover_leaves_an_interrupted_guest() {
    let host = Host::new();
    let mut source = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    let address = host.receive("b");
    let _migrate = host.start(&[&["migrate", "sim", &address, "-s", "post-copy"][..], &SLOW].concat());
    host.await_status("b", "running");
    source.child.kill().unwrap();
    host.await_status("b", "interrupted");
    for words in
        [&["resume", "b"][..], &["resume", "--force", "b"], &["migrate", "b", &address], &["check", "b"]]
    {
        host.ferry(words).fails(1, &["never came", "`ferry stop b`"]);
    }
    host.ferry(&["stop", "b"]).succeeds();
    await_that("it is gone", || !host.socket("b").exists());
}
