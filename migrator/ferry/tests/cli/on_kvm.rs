//! Real guests.

#![cfg(feature = "kvm")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    console::{Typist, assert_each_line_once, console},
    ferry::{Host, PATIENCE, await_that},
};

fn kvm_is_there(test: &str) -> bool {
    let missing = vmm::probe().kvm.err();
    missing.inspect(|reason| println!("skipped: {test}: {reason}")).is_none()
}

/// As [`kvm_is_there`], for tests whose guest starts with pages missing.
fn can_miss_pages(test: &str) -> bool {
    let missing = vmm::MissingPages::probe();
    kvm_is_there(test) && missing.inspect_err(|reason| println!("skipped: {test}: {reason}")).is_ok()
}

fn run_pulse(host: &Host, options: &[&str]) {
    run_pulse_as(host, "pulse", options);
}

fn run_pulse_as(host: &Host, name: &str, options: &[&str]) {
    let arguments =
        ["run", "pulse", "working-set=4MiB", "rate=2000", "--memory", "32MiB", "-d", "--name", name];
    host.ferry(&[&arguments[..], options].concat()).succeeds();
    await_that("pulse is ready", || host.info(name)["guest"]["ready"] == true);
    assert_eq!(host.status(name), "running");
}

#[test]
fn pulse_moves_by_each_strategy_and_its_console_lives_on() {
    if !kvm_is_there("pulse_moves_by_each_strategy_and_its_console_lives_on") {
        return;
    }
    let host = Host::new();
    run_pulse(&host, &["--vcpus", "2"]);
    for strategy in ["pre-copy", "stop-and-copy", "post-copy", "hybrid"] {
        if ["post-copy", "hybrid"].contains(&strategy)
            && let Err(reason) = vmm::MissingPages::probe()
        {
            println!("skipped: {strategy} of pulse: {reason}");
            continue;
        }
        let done = host.ferry(&["receive", "--simulated", "tcp://127.0.0.1:0", "--detach"]);
        let address = done.succeeds().lines().next().unwrap().strip_prefix("listening on ").unwrap();
        let mut arguments = vec!["migrate", "pulse", address, "-s", strategy, "--verify"];
        if strategy == "hybrid" {
            // Shorter than a switchover: all that is still dirty is missing when the guest starts.
            arguments.extend(["--downtime-limit", "100us"]);
        }
        let done = host.ferry(&arguments);
        assert!(done.succeeds().contains("digests of all memory are the same"), "{done:?}");
        let list = || host.ferry(&["ps", "--json"]).stdout;
        await_that("the name goes over", || {
            let list = list();
            list.contains("\"name\": \"pulse\"") && !list.contains("incoming-")
        });
        // Before anybody asks the guest itself what it is.
        let list: serde_json::Value = serde_json::from_str(&list()).unwrap();
        assert_eq!(list[0]["image"], "pulse", "{list}");
        host.assert_alive("pulse");
        let checked = host.ferry(&["check", "pulse"]);
        assert!(checked.succeeds().contains(" 0 errors"), "{strategy}: {checked:?}");
        assert_console_answers(&host);
    }
}

#[test]
fn a_paused_pulse_moves_twice_and_runs_on_when_it_is_resumed() {
    let test = "a_paused_pulse_moves_twice_and_runs_on_when_it_is_resumed";
    if !kvm_is_there(test) {
        return;
    }
    let host = Host::new();
    for (first, second) in
        [("pre-copy", "post-copy"), ("stop-and-copy", "pre-copy"), ("post-copy", "stop-and-copy")]
    {
        if [first, second].contains(&"post-copy")
            && let Err(reason) = vmm::MissingPages::probe()
        {
            println!("skipped: {test} by post-copy: {reason}");
            continue;
        }
        run_pulse(&host, &["--vcpus", "2"]);
        host.ferry(&["pause", "pulse"]).succeeds();
        let heartbeat = |name: &str| host.info(name)["guest"]["heartbeat"].as_u64().unwrap();
        let before = heartbeat("pulse");
        for (from, to, strategy) in [("pulse", "b", first), ("b", "c", second)] {
            let address = host.receive(to);
            host.ferry(&["migrate", from, &address, "-s", strategy, "--verify"]).succeeds();
            assert_eq!((host.status(to).as_str(), heartbeat(to)), ("paused", before));
        }
        host.ferry(&["resume", "c"]).succeeds();
        host.assert_alive("c");
        assert_eq!(host.info("c")["guest"]["errors"], 0);
        host.ferry(&["stop", "c"]).succeeds();
        await_that("it is gone", || !host.socket("c").exists() && !host.socket("pulse").exists());
    }
}

/// The guest answers what is typed, wherever it is by now.
fn assert_console_answers(host: &Host) {
    let mut console = UnixStream::connect(host.runtime().join("ferry/pulse.console")).unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    console.write_all(b"status\r").unwrap();
    let mut heard = String::new();
    let mut buffer = [0; 512];
    while !heard.contains("status") {
        let count = console.read(&mut buffer).expect("the guest answers");
        assert_ne!(count, 0, "the console closed: {heard:?}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

/// Issue 12, entry 4: what a guest exits with reaches the process that still has its pages.
#[test]
fn entry_4_a_guest_that_exits_in_the_push_ends_at_its_source_with_its_code() {
    let test = "entry_4_a_guest_that_exits_in_the_push_ends_at_its_source_with_its_code";
    if !can_miss_pages(test) {
        return;
    }
    let host = Host::new();
    let source = host.start(&["run", "pulse", "--memory", "256MiB", "--no-console"]);
    host.await_answer("pulse");
    await_that("pulse is ready", || host.info("pulse")["guest"]["ready"] == true);
    let address = host.receive("b");
    let migrate = ["migrate", "pulse", &address, "-s", "post-copy", "--max-bandwidth", "100Mbit"];
    let migrate = host.start(&migrate);
    host.await_status("b", "running");
    let mut console = UnixStream::connect(host.runtime().join("ferry/b.console")).unwrap();
    console.write_all(b"stop 7\r").unwrap();
    let end = source.end();
    let words = String::from_utf8_lossy(&end.stderr).into_owned();
    assert!(words.contains("pulse ended at tcp://") && words.contains("code 7"), "{words}");
    assert_eq!(end.status.code(), Some(7), "{words}");
    let words = String::from_utf8_lossy(&migrate.end().stderr).into_owned();
    assert!(words.contains("pulse ended at the destination with code 7"), "{words}");
}

/// Issue 12, entry 7: monitors look at a destination's guest all the while, from before it is made.
#[test]
fn entry_7_a_guest_arrives_whole_though_two_monitors_look_at_it_all_the_while() {
    let test = "entry_7_a_guest_arrives_whole_though_two_monitors_look_at_it_all_the_while";
    if !can_miss_pages(test) {
        return;
    }
    let host = Host::new();
    run_pulse_as(&host, "a", &[]);
    for [from, to] in [["a", "b"], ["b", "c"], ["c", "d"], ["d", "e"], ["e", "f"]] {
        let address = host.receive(to);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        look(&host, to);
                    }
                });
            }
            let moved = host.ferry(&["migrate", from, &address, "-s", "post-copy"]);
            done.store(true, Ordering::Relaxed);
            moved.succeeds();
        });
        host.assert_alive(to);
    }
}

/// Asks what the guest says, and waits for the answer.
fn look(host: &Host, name: &str) {
    let mut client = UnixStream::connect(host.socket(name)).expect("the receiver is there");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET /v1/vm/guest HTTP/1.1\r\nHost: ferry\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

/// Issue 12, entry 13: a destination of post-copy never has more resident than the guest's memory and a little, whether its
/// pages come in whole blocks or, under a limit, in short frames.
#[test]
fn entry_13_a_post_copy_takes_the_guests_memory_once() {
    let test = "entry_13_a_post_copy_takes_the_guests_memory_once";
    if !can_miss_pages(test) {
        return;
    }
    let host = Host::new();
    host.ferry(&["run", "pulse", "rate=2000", "--memory", "256MiB", "-d", "--name", "a"]).succeeds();
    await_that("pulse is ready", || host.info("a")["guest"]["ready"] == true);
    for (from, to, limit) in [("a", "b", "3Gbit"), ("b", "c", "500Gbit")] {
        let address = host.receive(to);
        let pid = host.info(to)["vm"]["pid"].as_u64().unwrap();
        host.ferry(&["migrate", from, &address, "-s", "post-copy", "--max-bandwidth", limit]).succeeds();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak");
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak_kib < (256 + 64) << 10, "{limit}: {peak_kib} KiB at the peak, for a guest of 256 MiB");
        host.assert_alive(to);
    }
}

/// Pulse has no driver for it: it is asked, and gives nothing. Linux does, on emulated hosts.
#[test]
fn a_balloon_is_asked_for_and_the_wish_goes_along() {
    let test = "a_balloon_is_asked_for_and_the_wish_goes_along";
    if !kvm_is_there(test) {
        return;
    }
    let host = Host::new();
    run_pulse_as(&host, "without", &[]);
    host.ferry(&["balloon", "without", "8MiB"]).fails(1, &["without has no balloon", "--balloon"]);
    host.ferry(&["balloon", "without"]).fails(1, &["without has no balloon"]);
    host.ferry(&["stop", "without"]).succeeds();

    run_pulse_as(&host, "a", &["--balloon"]);
    assert_eq!(host.ferry(&["balloon", "a"]).succeeds().trim(), "the balloon is empty");
    for too_much in ["32MiB", "33MiB"] {
        let words = [&format!("a has 32 MiB of memory: {} cannot", too_much.replace("MiB", " MiB"))[..]];
        host.ferry(&["balloon", "a", too_much]).fails(1, &words);
    }
    host.ferry(&["balloon", "a", "6000"]).fails(1, &["pages of 4096 bytes"]);
    let wanted = "0 B in the balloon, 8 MiB wanted";
    // Issue 12, entry 23: it is said that nobody does it.
    let asked = host.ferry(&["balloon", "a", "8MiB"]);
    asked.fails(1, &["a has no driver for its balloon"]);
    assert_eq!(asked.stdout.trim(), wanted);
    let address = host.receive("b");
    host.ferry(&["balloon", "b", "8MiB"]).fails(1, &["b waits for a VM"]);
    host.ferry(&["balloon", "b"]).fails(1, &["b waits for a VM"]);
    host.ferry(&["migrate", "a", &address, "-s", "stop-and-copy"]).succeeds();
    assert_eq!(host.ferry(&["balloon", "b"]).succeeds().trim(), wanted);
    await_that("it has left", || !host.socket("a").exists());
    host.ferry(&["balloon", "a", "8MiB"]).fails(1, &["no VM called a"]);
    let report = host.ferry(&["balloon", "b", "0", "--json"]);
    let report: serde_json::Value = serde_json::from_str(report.succeeds()).unwrap();
    assert_eq!(report, serde_json::json!({ "target_bytes": 0, "actual_bytes": 0, "has_driver": false }));
    host.assert_alive("b");
}

#[test]
fn what_is_no_kernel_is_named() {
    if !kvm_is_there("what_is_no_kernel_is_named") {
        return;
    }
    let host = Host::new();
    let file = host.runtime().join("vmlinux");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    let kernel = file.to_str().unwrap();
    host.ferry(&["run", "--kernel", kernel, "--memory", "32MiB"])
        .fails(1, &["neither a bzImage", "nor an ELF file"]);
    host.ferry(&["run", "--kernel", "/no/such/file"]).fails(1, &["/no/such/file", "No such file"]);
    host.ferry(&["run", "pulse", "speed=9"]).fails(1, &["pulse has no option \"speed\""]);
    host.ferry(&["run", "pulse", "--memory", "512GiB"]).fails(1, &["this host has"]);
    host.ferry(&["run", "pulse", "--memory", "8MiB"]).fails(1, &["out of bounds"]);
    assert!(!host.socket("vmlinux").exists(), "a failed start leaves no name behind");
}

#[test]
fn a_check_asked_for_while_paused_or_moving_is_refused() {
    if !kvm_is_there("a_check_asked_for_while_paused_or_moving_is_refused") {
        return;
    }
    let host = Host::new();
    run_pulse(&host, &[]);
    host.ferry(&["pause", "pulse"]).succeeds();
    host.ferry(&["check", "pulse"]).fails(1, &["pulse is paused"]);
    let heartbeat = || host.info("pulse")["guest"]["heartbeat"].as_u64();
    let before = heartbeat();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(heartbeat(), before, "a paused guest stands still");
    host.ferry(&["resume", "pulse"]).succeeds();
    host.assert_alive("pulse");
}

#[test]
fn a_guest_reads_what_is_piped_in_and_its_exit_code_becomes_ours() {
    if !kvm_is_there("a_guest_reads_what_is_piped_in_and_its_exit_code_becomes_ours") {
        return;
    }
    let host = Host::new();
    let mut run = host.start_typing(&["run", "pulse", "--memory", "32MiB"]);
    // A guest that sets up its serial port drops what was typed before.
    await_that("pulse is ready", || {
        host.ferry(&["info", "pulse", "--json"]).stdout.contains("\"ready\": true")
    });
    run.child.stdin.take().unwrap().write_all(b"stop 3\r").unwrap();
    let end = run.end();
    assert_eq!(end.status.code(), Some(3), "{end:?}");
    assert!(String::from_utf8_lossy(&end.stdout).contains("pulse"), "{end:?}");
    assert!(String::from_utf8_lossy(&end.stderr).contains("the guest exited with code 3"), "{end:?}");
}

/// Issue 12, entry 22, on a real guest: its serial port's input goes with it, and so does what it wrote.
#[test]
fn entry_22_every_line_typed_while_pulse_moves_is_read_once() {
    let test = "entry_22_every_line_typed_while_pulse_moves_is_read_once";
    if !kvm_is_there(test) {
        return;
    }
    let host = Host::new();
    run_pulse_as(&host, "vm0", &[]);
    let mut typist = Typist::at(console(&host, "vm0"));
    let has_missing_pages = vmm::MissingPages::probe().is_ok();
    for at in 0..9 {
        let strategy = ["stop-and-copy", "pre-copy", "post-copy"][at % 3];
        if strategy == "post-copy" && !has_missing_pages {
            println!("skipped: {test} by post-copy");
        }
        let strategy = if has_missing_pages { strategy } else { "pre-copy" };
        let (from, to) = (format!("vm{at}"), format!("vm{}", at + 1));
        let address = host.receive(&to);
        let migrate = host.start(&["migrate", &from, &address, "-s", strategy]);
        typist.follows(&address, console(&host, &to));
        assert!(migrate.end().status.success());
    }
    let (count, seen) = typist.ends("");
    // It says what is typed again, and that it knows no such command.
    assert_each_line_once(&seen, count, "");
}
