//! What goes wrong with a QEMU is said in its words.

use std::{fs, path::Path, process, thread};

use serde_json::json;

use super::{sides::socket_address, *};
use crate::{
    peer::{guest::GuestView, qemu::Side, qmp::Qmp},
    rig::Process,
};

#[test]
fn the_port_is_found_in_what_the_destination_says() {
    let answer = json!({"status": "setup", "socket-address": [
        {"port": "45123", "ipv4": true, "host": "127.0.0.1", "type": "inet"}]});
    assert_eq!(socket_address(&answer).as_deref(), Some("tcp:127.0.0.1:45123"));
    let answer = json!({"socket-address": [{"port": "9", "host": "fe80::1", "type": "inet"}]});
    assert_eq!(socket_address(&answer).as_deref(), Some("tcp:[fe80::1]:9"));
    assert_eq!(socket_address(&json!({})), None);
}

/// A side whose process says its last words and whose control socket is closed.
fn dead(name: &str, words: &str, runtime: &Path) -> Side {
    let mut command = process::Command::new("sh");
    command.args(["-c", &format!("echo '{words}' >&2; exit 3")]);
    let process = Process::spawn(&format!("QEMU's {name}"), command, runtime, None).unwrap();
    // As long as it is not waited for, its state stays.
    let stat = format!("/proc/{}/stat", process.id());
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        thread::yield_now();
    }
    let guest = GuestView::open(process::id(), 4096, 1).unwrap();
    Side { process, qmp: Qmp::closed(), guest }
}

#[test]
fn a_qemu_that_dies_midway_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let mut sides = Sides {
        source: dead("source", "qemu: Guest crashed", folder.path()),
        destination: dead("destination", "qemu: out of memory", folder.path()),
    };
    let error = format!("{:#}", sides.begin(Setting::PreCopy).unwrap_err());
    assert!(error.contains("qemu: out of memory"), "{error}");
    let error = sides.follow(Setting::PreCopy, &mut Progress::default()).err().unwrap();
    let error = format!("{error:#}");
    assert!(error.starts_with("the source is gone") && error.contains("qemu: Guest crashed"), "{error}");
}
