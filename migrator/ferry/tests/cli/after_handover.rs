//! The guest runs at the destination, and its last pages are still at the source: what each side says and does then.

use std::os::unix::process::ExitStatusExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::ferry::{Host, Running, await_that};

/// 16 MiB by 8 Mbit/s: a push of 16 s, which no test waits for.
const SLOW_PUSH: [&str; 4] = ["-s", "post-copy", "--max-bandwidth", "8Mbit"];

/// A guest in the middle of its push: the source's process, and the `ferry migrate` that waits for it.
fn pushing(host: &Host) -> (Running, Running) {
    let source = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    let address = host.receive("b");
    let migrate = host.start(&[&["migrate", "sim", &address][..], &SLOW_PUSH].concat());
    host.await_status("b", "running");
    // The source has heard of it, too.
    await_that("it is pushed", || {
        host.info("sim")["migration"]["progress"]["phase"].as_str() == Some("push")
    });
    (source, migrate)
}

#[test]
fn entry_4_a_guest_that_is_stopped_at_the_destination_ends_at_its_source_too() {
    let host = Host::new();
    let (source, migrate) = pushing(&host);
    host.ferry(&["stop", "b"]).succeeds();
    let end = source.end();
    let words = String::from_utf8_lossy(&end.stderr).into_owned();
    assert!(
        words.contains("sim ended at tcp://") && words.contains("with code 0: its user stopped it"),
        "{words}"
    );
    assert!(end.status.success(), "{end:?}");
    let end = migrate.end();
    let words = String::from_utf8_lossy(&end.stderr).into_owned();
    assert!(words.contains("sim ended at the destination with code 0"), "{words}");
    await_that("both are gone", || !host.socket("b").exists() && !host.socket("sim").exists());
}

#[test]
fn entry_5_neither_signals_nor_stop_nor_cancel_end_what_another_host_depends_on() {
    let host = Host::new();
    let (mut source, migrate) = pushing(&host);
    host.ferry(&["stop", "sim"])
        .fails(1, &["too late: sim runs at tcp://", "pages to go", "`ferry stop --force sim`"]);
    host.ferry(&["cancel", "sim"]).fails(1, &["too late: sim runs at tcp://", "pages to go"]);
    let pid = Pid::from_child(&source.child);
    for signal in [Signal::HUP, Signal::TERM, Signal::TERM, Signal::INT] {
        kill_process(pid, signal).unwrap();
    }
    // It still answers, and goes on.
    assert_eq!(host.status("sim"), "migrating");
    assert!(source.child.try_wait().unwrap().is_none());
    host.ferry(&["stop", "--force", "sim"]).succeeds();
    let end = source.end();
    assert_eq!(end.status.signal(), None, "{end:?}");
    drop(migrate);
    host.await_status("b", "interrupted");
}

/// Entry 14: the source, on the same host, keeps the name until its last page has gone, which takes longer here than a VM
/// that has all of its pages tries to get it.
#[test]
fn entry_14_a_vm_gets_its_name_back_after_a_long_push_within_one_host() {
    let host = Host::new();
    host.run_sim("guest", &[]);
    let done = host.ferry(&["receive", "--simulated", "tcp://127.0.0.1:0", "--detach"]);
    let lines: Vec<String> = done.succeeds().lines().map(ToOwned::to_owned).collect();
    let address = lines[0].strip_prefix("listening on ").unwrap();
    host.ferry(&[&["migrate", "guest", address][..], &SLOW_PUSH].concat()).succeeds();
    await_that("it has its name", || {
        host.ferry(&["ps", "--json"]).stdout.matches("\"name\": \"guest\"").count() == 1
            && !host.socket(&lines[1]).exists()
    });
    host.assert_alive("guest");
}
