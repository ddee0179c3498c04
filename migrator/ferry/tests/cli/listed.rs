//! Issue 12, entry 23: what `ferry ps` and `ferry info` say of VMs that do not answer, are on their way, or change their
//! name.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ferry::{Host, await_that};

fn listed(host: &Host) -> Vec<Value> {
    serde_json::from_str(host.ferry(&["ps", "--json"]).succeeds()).expect("JSON")
}

/// Its process goes on when this is dropped.
struct Halted(Pid);

impl Drop for Halted {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).ok();
    }
}

#[test]
fn entry_23_a_vm_whose_process_does_not_answer_is_listed_as_silent() {
    let host = Host::new();
    host.run_sim("a", &[]);
    host.run_sim("b", &[]);
    let pid = host.info("a")["vm"]["pid"].as_i64().unwrap();
    let halted = Halted(Pid::from_raw(pid as i32).unwrap());
    kill_process(halted.0, Signal::STOP).unwrap();
    let all = listed(&host);
    let [a, b] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (a["name"].as_str(), a["status"].as_str(), a["pid"].as_i64()),
        (Some("a"), Some("silent"), Some(pid))
    );
    assert_eq!((b["name"].as_str(), b["status"].as_str()), (Some("b"), Some("running")));
    let table = host.ferry(&["ps"]);
    let row = table.succeeds().lines().find(|line| line.trim_start().starts_with("a ")).unwrap().to_owned();
    assert!(row.contains("silent") && row.contains(&pid.to_string()), "{row}");
    assert!(table.stderr.contains("a did not answer within 2 s"), "{table:?}");
    drop(halted);
    await_that("it answers again", || listed(&host).iter().all(|vm| vm["status"] == "running"));
}

#[test]
fn entry_23_a_vm_that_takes_another_name_meanwhile_is_listed_once() {
    let host = Host::new();
    host.run_sim("guest", &[]);
    for _ in 0..5 {
        let done = host.ferry(&["receive", "--simulated", "tcp://127.0.0.1:0", "--detach"]);
        let address =
            done.succeeds().lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
        let pid = listed(&host).iter().find(|vm| vm["status"] == "receiving").unwrap()["pid"].clone();
        let migrate = host.start(&["migrate", "guest", &address, "-s", "stop-and-copy"]);
        await_that("its own name", || {
            let all = listed(&host);
            let of_it: Vec<_> = all.iter().filter(|vm| vm["pid"] == pid).collect();
            assert_eq!(of_it.len(), 1, "{all:?}");
            all.len() == 1 && of_it[0]["name"] == "guest"
        });
        assert!(migrate.end().status.success());
    }
}

#[test]
fn entry_23_what_is_on_its_way_is_said_where_it_goes() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let address = host.receive("b");
    let migrate = host.start(&["migrate", "a", &address, "--max-bandwidth", "8Mbit"]);
    await_that("some of it has come", || host.info("b")["vm"]["receiving"]["percent"].as_u64() > Some(0));
    let b = host.info("b");
    assert_eq!(
        (&b["vm"]["status"], &b["vm"]["receiving"]["name"]),
        (&"receiving".into(), &"a".into()),
        "{b}"
    );
    // The guest runs at the source.
    assert_eq!(b["guest"]["available"], false, "{b}");
    assert!(host.ferry(&["ps"]).succeeds().contains("receiving a, "));
    assert!(host.ferry(&["info", "b"]).succeeds().contains("% of its memory"));
    for wish in ["check", "balloon", "pause", "resume"] {
        host.ferry(&[wish, "b"]).fails(1, &["a is on its way to b, and still runs where it comes from"]);
    }
    host.ferry(&["cancel", "a"]).succeeds();
    drop(migrate);
    await_that("nothing is on its way", || host.info("b")["vm"]["receiving"].is_null());
    host.ferry(&["check", "b"]).fails(1, &["b waits for a VM"]);
}
