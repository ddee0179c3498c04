//! A disk that is full costs words, and nothing else: no guest, no report, no migration.

use std::fs::File;

use serde_json::Value;

use crate::ferry::Host;

/// What every write fails on, with "No space left on device"; `None`, with the reason, where there is no such thing.
fn full(test: &str) -> Option<File> {
    let opened = File::options().write(true).open("/dev/full");
    opened.inspect_err(|error| println!("skipped: {test}: cannot open /dev/full: {error}")).ok()
}

/// The report in what was said instead: the line that is an object.
fn report_in(stderr: &str) -> Value {
    let line = stderr.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no report in {stderr:?}"))).expect("JSON")
}

#[test]
fn a_report_that_cannot_be_written_is_said_instead_and_the_guest_has_moved() {
    let test = "a_report_that_cannot_be_written_is_said_instead_and_the_guest_has_moved";
    let Some(disk) = full(test) else { return };
    let host = Host::new();
    host.run_sim("a", &[]);
    for (destination, from, form) in [("b", "a", Some("--json")), ("c", "b", None)] {
        let address = host.receive(destination);
        let arguments = [&["migrate", from, &address, "--verify"][..], form.as_slice()].concat();
        let done = host.ferry_into(disk.try_clone().unwrap(), &arguments);
        done.fails(5, &["cannot write to standard output", "No space left on device"]);
        let report = report_in(&done.stderr);
        assert_eq!((&report["outcome"], &report["verified"]), (&"completed".into(), &true.into()));
        host.assert_alive(destination);
    }
}

#[test]
fn a_migration_that_failed_says_so_where_its_report_cannot_be_written() {
    let test = "a_migration_that_failed_says_so_where_its_report_cannot_be_written";
    let Some(disk) = full(test) else { return };
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let slow = ["migrate", "a", &address, "--max-bandwidth", "8Mbit", "--timeout", "300ms", "--json"];
    let done = host.ferry_into(disk, &slow);
    done.fails(1, &["a was not moved and runs on here", "No space left on device"]);
    assert_eq!(report_in(&done.stderr)["outcome"], "failed");
    host.assert_alive("a");
}

#[test]
fn other_commands_fail_in_a_sentence() {
    let Some(disk) = full("other_commands_fail_in_a_sentence") else { return };
    let host = Host::new();
    host.run_sim("a", &[]);
    for arguments in [
        &["ps"][..],
        &["ps", "--json"],
        &["info", "a"],
        &["check", "a"],
        &["pause", "a"],
        &["resume", "a"],
        &["doctor"],
        &["completions", "bash"],
    ] {
        let done = host.ferry_into(disk.try_clone().unwrap(), arguments);
        done.fails(1, &["ferry: cannot write to standard output: No space left on device"]);
    }
    host.assert_alive("a");
}

/// The processes of both sides have words to say on the way, each of them to a log on a full disk.
#[test]
fn a_log_that_is_full_does_not_end_a_guest_or_its_migration() {
    let test = "a_log_that_is_full_does_not_end_a_guest_or_its_migration";
    let Some(disk) = full(test) else { return };
    let host = Host::new();
    let start = |arguments: &[&str]| {
        let mut command = host.command(arguments);
        command.env("FERRY_LOG", "trace").stderr(disk.try_clone().unwrap());
        host.start_as(command)
    };
    let mut source = start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    let mut destination =
        start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--name", "b", "--no-console"]);
    let address = destination.line().strip_prefix("listening on ").unwrap().to_owned();
    // A try that fails, which both sides complain of; then one that does not.
    let slow = ["migrate", "sim", &address, "--max-bandwidth", "8Mbit", "--timeout", "300ms"];
    host.ferry(&slow).fails(1, &["longer than --timeout allows"]);
    host.ferry(&["migrate", "sim", &address, "-s", "post-copy", "--verify"]).succeeds();
    host.assert_alive("b");
    assert!(source.ends_with_success());
    host.ferry(&["stop", "b"]).succeeds();
    assert!(destination.ends_with_success());
}
