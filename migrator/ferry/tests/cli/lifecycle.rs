//! Names, sockets, and the ways a VM's process begins and ends.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use rustix::process::Signal;

use crate::ferry::{Host, PATIENCE, await_that};

#[test]
fn a_detached_guest_is_listed_paused_resumed_and_stopped() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let list = host.ferry(&["ps"]);
    assert!(list.succeeds().contains("running"), "{list:?}");
    let list: serde_json::Value = serde_json::from_str(host.ferry(&["ps", "--json"]).succeeds()).unwrap();
    assert_eq!(list[0]["name"], "a");
    assert_eq!(list[0]["kind"], "simulated");
    assert_eq!(list[0]["memory_bytes"], 16 << 20);
    assert!(list[0]["overhead_bytes"].as_u64().unwrap() < 64 << 20, "{list}");

    host.ferry(&["pause", "a"]).succeeds();
    assert_eq!(host.status("a"), "paused");
    host.ferry(&["check", "a"]).fails(1, &["a is paused", "ferry resume a"]);
    host.ferry(&["resume", "a"]).succeeds();
    host.assert_alive("a");

    host.ferry(&["stop", "a"]).succeeds();
    await_that("its socket is gone", || !host.socket("a").exists());
    host.ferry(&["info", "a"]).fails(1, &["no VM called a", "none at all"]);
}

#[test]
fn names_are_numbered_unless_chosen() {
    let host = Host::new();
    for name in ["sim", "sim-2", "sim-3"] {
        let done = host.ferry(&["run", "sim", "--memory", "16MiB", "-d"]);
        assert_eq!(done.succeeds().trim(), name);
    }
    let taken = host.ferry(&["run", "sim", "--memory", "16MiB", "--name", "sim-2", "-d"]);
    taken.fails(1, &["the name sim-2 is taken", "--name"]);
    host.ferry(&["info", "nobody"]).fails(1, &["no VM called nobody", "sim, sim-2, sim-3"]);
}

#[test]
fn what_a_killed_process_left_behind_is_in_nobodys_way() {
    let host = Host::new();
    let mut first = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
    host.await_answer("sim");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(host.socket("sim").exists(), "a killed process cannot tidy up");
    assert_eq!(host.ferry(&["ps", "--json"]).succeeds().trim(), "[]");
    assert!(!host.socket("sim").exists());
    // A stale socket is also no obstacle where nobody has listed the names.
    drop(UnixListener::bind(host.socket("sim")).unwrap());
    host.run_sim("sim", &[]);
}

#[test]
fn signals_end_a_guest_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let host = Host::new();
        let run = host.start(&["run", "sim", "--memory", "16MiB", "--no-console"]);
        host.await_answer("sim");
        run.signal(signal);
        let end = run.end();
        assert!(end.status.success(), "{end:?}");
        assert!(!host.socket("sim").exists());
        assert!(!host.runtime().join("ferry/sim.console").exists());
    }
}

#[test]
fn the_console_is_a_plain_socket_and_replays_to_who_comes_later() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let mut expected = "A simulated guest says each line again.\r\n".to_owned();
    for _ in 0..2 {
        let mut console = UnixStream::connect(host.runtime().join("ferry/a.console")).unwrap();
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        console.write_all(b"hello\n").unwrap();
        expected.push_str("heard hello\r\n");
        let mut words = vec![0; expected.len()];
        console.read_exact(&mut words).unwrap();
        assert_eq!(String::from_utf8_lossy(&words), expected);
    }
}

#[test]
fn a_runtime_folder_that_others_can_reach_into_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    fs::create_dir(host.runtime().join("ferry")).unwrap();
    fs::set_permissions(host.runtime().join("ferry"), fs::Permissions::from_mode(0o777)).unwrap();
    host.ferry(&["ps"]).fails(1, &["belongs to another user or can be written by others"]);
}

#[test]
fn completions_and_man_pages_come_from_the_arguments() {
    let host = Host::new();
    let done = host.ferry(&["completions", "bash"]);
    assert!(
        done.succeeds().contains("stop-and-copy") || done.stdout.contains("--downtime-limit"),
        "{done:?}"
    );
    let folder = host.runtime().join("man");
    host.ferry(&["man", folder.to_str().unwrap()]).succeeds();
    assert!(folder.join("ferry-migrate.1").exists());
}

#[test]
fn the_doctor_names_each_need() {
    let host = Host::new();
    let done = host.ferry(&["doctor", "--json"]);
    let needs: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let needs = needs.as_array().unwrap();
    assert!(needs.iter().any(|need| need["name"] == "KVM"), "{done:?}");
    for need in needs {
        assert!(need["present"] == true || need["mend"].is_string(), "{need}");
    }
    assert!(host.ferry(&["doctor"]).stdout.contains("network namespaces"));
}
