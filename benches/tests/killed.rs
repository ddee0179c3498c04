//! A harness that is killed in the middle of a run, and the next one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Enough memory to be at it for a while, on simulated guests: this is about processes and files.
const LONG: [&str; 7] = ["--simulated", "--memory", "256MiB", "--runs", "20", "--strategy", "stop-and-copy"];
const SHORT: [&str; 9] =
    ["--simulated", "--memory", "16MiB", "--working-set", "1MiB", "--runs", "1", "--strategy", "pre-copy"];

fn ferry_bench(folder: &TempDir, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ferry-bench"))
        .args(arguments)
        .current_dir(folder.path())
        .env("TMPDIR", temporary(folder))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn temporary(folder: &TempDir) -> PathBuf {
    folder.path().join("tmp")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The processes that a harness has written down, and that still are what they were.
fn running(runtime: &Path) -> Vec<String> {
    let text = fs::read_to_string(runtime.join("processes")).unwrap_or_default();
    let pids = text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned()));
    let is_ours = |pid: &String| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(7).any(|word| word == b"__ferry"))
    };
    pids.filter(is_ours).collect()
}

#[test]
fn a_killed_harness_leaves_no_process_and_the_next_one_clears_its_folder() {
    let name = "a_killed_harness_leaves_no_process_and_the_next_one_clears_its_folder";
    if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", 0)) {
        println!("skipped: {name}: no TCP on loopback: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(temporary(&folder)).unwrap();
    let mut harness = ferry_bench(&folder, &LONG);
    let runtime = temporary(&folder).join(format!("ferry-bench-{}", harness.id()));
    wait_until("source and destination run", || running(&runtime).len() >= 2);

    // Kill -9: no drop, no handler.
    harness.kill().unwrap();
    harness.wait().unwrap();
    wait_until("its processes end with it", || running(&runtime).is_empty());
    assert!(runtime.exists(), "nobody was there to remove it");

    let next = ferry_bench(&folder, &SHORT).wait().unwrap();
    assert!(next.success(), "{next}");
    assert_eq!(fs::read_dir(temporary(&folder)).unwrap().count(), 0, "something was left behind");
}
