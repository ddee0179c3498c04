//! A disk that is full does not cost what was measured.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Output},
};

use benches::results;
use tempfile::TempDir;

const LINE: [&str; 9] = [
    "--simulated",
    "--memory",
    "16MiB",
    "--working-set",
    "1MiB",
    "--strategy",
    "stop-and-copy,pre-copy",
    "--runs",
    "2",
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `ferry-bench` with its report on a disk of `kib` KiB, and leaves a copy of that beside it, in `kept`. `None`,
/// with the reason, where nobody may mount one.
fn on_a_disk_of(kib: u32, folder: &TempDir, test: &str) -> Option<Output> {
    let script = format!(
        "mkdir report && mount -t tmpfs -o size={kib}k full report || exit 77
        \"$@\"; code=$?; cp -r report kept; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_ferry-bench")).args(LINE);
    let output = command.current_dir(folder.path()).env("TMPDIR", folder.path()).output();
    let reason = match output {
        Ok(output) if folder.path().join("kept").is_dir() => return Some(output),
        Ok(output) => text(&output.stderr),
        Err(error) => error.to_string(),
    };
    println!("skipped: {test}: cannot mount a small disk: {}", reason.trim());
    None
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn a_report_that_finds_no_room_costs_neither_table_nor_earlier_results() {
    let test = "a_report_that_finds_no_room_costs_neither_table_nor_earlier_results";
    // Room for some of the results, and none for the page.
    for kib in [16, 32] {
        let folder = tempfile::tempdir().unwrap();
        let Some(output) = on_a_disk_of(kib, &folder, test) else { return };
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}\n{complained}");
        assert_eq!(said.matches("yes 2/2").count(), 2, "{said}\n{complained}");
        assert!(complained.contains("No space left on device"), "{complained}");
        assert!(complained.contains("make room or choose another folder with --out"), "{complained}");
        let kept = folder.path().join("kept");
        // What is there is whole: nothing is half written.
        results::read(&kept.join("results.json")).unwrap();
        assert!(files(&kept).iter().all(|name| !name.ends_with(".part")), "{:?}", files(&kept));
    }
}

#[test]
fn a_table_that_finds_no_room_costs_no_report() {
    let test = "a_table_that_finds_no_room_costs_no_report";
    let full = match File::options().write(true).open("/dev/full") {
        Ok(full) => full,
        Err(error) => return println!("skipped: {test}: cannot open /dev/full: {error}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry-bench"));
    command.args(LINE).current_dir(folder.path()).env("TMPDIR", folder.path()).stdout(full);
    let output = command.output().unwrap();
    let complained = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complained}");
    assert!(complained.contains("cannot write to standard output: No space left on device"), "{complained}");
    assert!(!complained.contains("panicked"), "{complained}");
    let results = results::read(&folder.path().join("report/results.json")).unwrap();
    assert!(results.complete && results.runs.len() == 4);
    assert!(folder.path().join("report/index.html").exists());
}
