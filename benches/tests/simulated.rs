//! The whole comparison, end to end, on simulated guests: no KVM needed.

use std::{
    fs,
    process::{Command, Output},
};

use benches::results::{self, RunOutcome};
use tempfile::TempDir;

/// Runs `ferry-bench` with everything it writes below `folder`.
fn ferry_bench(folder: &TempDir, arguments: &[&str]) -> Output {
    let temporary = folder.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ferry-bench"))
        .args(arguments)
        .current_dir(folder.path())
        .env("TMPDIR", &temporary)
        .output()
        .unwrap()
}

/// Loopback may be forbidden in a sandbox; then there is nothing to test.
fn loopback(name: &str) -> bool {
    match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {name}: no TCP on loopback: {error}");
            false
        }
    }
}

#[test]
fn every_strategy_moves_a_simulated_guest_and_all_is_shown() {
    if !loopback("every_strategy_moves_a_simulated_guest_and_all_is_shown") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line =
        ["compare", "--simulated", "--memory", "16MiB", "--working-set", "2MiB", "--dirty-rate", "1000"];
    let output = ferry_bench(&folder, &[&line[..], &["--runs", "2"]].concat());
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.starts_with("SIMULATED GUESTS"), "{said}");
    assert!(said.contains("yes 2/2"), "{said}");

    let results = results::read(&folder.path().join("report/results.json")).unwrap();
    assert!(results.complete);
    assert_eq!(results.runs.len(), 8);
    for run in &results.runs {
        assert_eq!(
            (run.outcome, run.verified, run.guest_errors),
            (RunOutcome::Completed, Some(true), Some(0))
        );
        assert!(
            run.simulated && run.moved.downtime_engine_us.is_some() && run.limit_bytes_per_second.is_some()
        );
        assert!(run.moved.pages_sent > Some(0), "{run:?}");
    }
    let passes: Vec<u32> = results.runs.iter().map(|run| run.pass).collect();
    assert_eq!(passes, [1, 1, 1, 1, 2, 2, 2, 2]);

    let page = fs::read_to_string(folder.path().join("report/index.html")).unwrap();
    assert!(page.contains("Simulated guests"));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "something was left behind");

    let again = ferry_bench(&folder, &["report", "report/results.json", "--out", "again"]);
    assert!(again.status.success());
    assert_eq!(fs::read_to_string(folder.path().join("again/index.html")).unwrap(), page);
}

#[test]
fn a_folder_that_cannot_be_written_does_not_cost_the_table() {
    if !loopback("a_folder_that_cannot_be_written_does_not_cost_the_table") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("report"), "a file where a folder should be").unwrap();
    let line = [
        "--simulated",
        "--memory",
        "16MiB",
        "--working-set",
        "1MiB",
        "--runs",
        "1",
        "--strategy",
        "pre-copy",
    ];
    let output = ferry_bench(&folder, &line);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("yes 1/1"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"));
}

#[test]
fn another_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.json"), r#"{"schema": "ferry-bench/0"}"#).unwrap();
    let output = ferry_bench(&folder, &["report", "old.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ferry-bench/0"));
    assert!(!folder.path().join("report").exists());
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    if !loopback("an_interrupted_sweep_goes_on_where_it_was") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line =
        ["sweep", "--simulated", "--memory", "16MiB", "--working-set", "1MiB", "--dirty-rate", "0,1000"];
    let sweep = |more: &[&str]| {
        let output = ferry_bench(&folder, &[&line[..], &["--strategy", "pre-copy"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, complained) = sweep(&["--runs", "2"]);
    assert_eq!(code, Some(0), "{complained}");
    let path = folder.path().join("report/sweep/results.json");
    let whole = results::read(&path).unwrap();
    assert_eq!((whole.complete, whole.runs.len()), (true, 4));
    let page = fs::read_to_string(folder.path().join("report/sweep/index.html")).unwrap();
    assert!(page.contains("against the dirty rate") && page.contains("<polyline"));

    // As if it had been killed in the second pass.
    let mut part = whole.clone();
    part.complete = false;
    part.runs.truncate(3);
    fs::write(&path, serde_json::to_string(&part).unwrap()).unwrap();
    let (code, complained) = sweep(&["--runs", "2"]);
    assert_eq!(code, Some(1));
    assert!(complained.contains("3 runs") && complained.contains("--resume"), "{complained}");
    let (code, complained) = sweep(&["--runs", "3", "--resume"]);
    assert_eq!(code, Some(1));
    assert!(complained.contains("--runs differs"), "{complained}");
    assert_eq!(results::read(&path).unwrap(), part, "what was refused is as it was");

    let (code, complained) = sweep(&["--runs", "2", "--resume"]);
    assert_eq!(code, Some(0), "{complained}");
    let resumed = results::read(&path).unwrap();
    assert_eq!((resumed.complete, resumed.runs.len()), (true, 4));
    assert_eq!(resumed.runs[..3], part.runs[..], "what was measured is not measured again");
}
