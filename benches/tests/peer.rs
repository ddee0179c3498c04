//! Another engine beside Ferry: left out, dying, and moving a real guest.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use benches::results::{self, Run, RunOutcome};
use tempfile::TempDir;

/// Small guests, moved once.
const SMALL: [&str; 9] =
    ["compare", "--memory", "64MiB", "--working-set", "4MiB", "--dirty-rate", "1000", "--runs", "1"];

fn ferry_bench(folder: &TempDir, arguments: &[&str]) -> Output {
    let temporary = folder.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ferry-bench"))
        .args(SMALL)
        .args(arguments)
        .current_dir(folder.path())
        .env("TMPDIR", &temporary)
        .output()
        .unwrap()
}

fn runs(folder: &TempDir) -> Vec<Run> {
    results::read(&folder.path().join("report/results.json")).unwrap().runs
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}

/// The QEMU to test with, by `FERRY_TEST_QEMU` or by name; nothing, with the reason, if there is none, or no KVM.
fn qemu(test: &str) -> Option<PathBuf> {
    let skip = |reason: String| {
        println!("skipped: {test}: {reason}");
        None
    };
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return skip(format!("/dev/kvm: {error}"));
    }
    let program = env::var_os("FERRY_TEST_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
    match Command::new(&program).arg("--version").output() {
        Ok(_) => Some(program.into()),
        Err(error) => skip(format!("cannot run {}: {error}", Path::new(&program).display())),
    }
}

#[test]
fn simulated_guests_are_compared_without_qemu_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = ferry_bench(&folder, &["--simulated", "--strategy", "pre-copy", "--against", "qemu"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("QEMU is left out"), "{said}");
    let results = results::read(&folder.path().join("report/results.json")).unwrap();
    assert_eq!((results.runs.len(), results.notes.len()), (1, 1));
    assert!(results.runs[0].engine.is_ferry() && results.notes[0].contains("QEMU"));
}

#[test]
fn qemu_moves_the_same_guest_and_stands_beside_ferry() {
    let test = "qemu_moves_the_same_guest_and_stands_beside_ferry";
    let Some(program) = qemu(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    // Who may not handle other processes' page faults cannot have QEMU do it.
    let strategies = if is_root() { "all" } else { "stop-and-copy,pre-copy" };
    let program = program.to_str().unwrap();
    let output = ferry_bench(&folder, &["--strategy", strategies, "--against", "qemu", "--qemu", program]);
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}\n{complained}");

    let runs = runs(&folder);
    let theirs: Vec<&Run> = runs.iter().filter(|run| !run.engine.is_ferry()).collect();
    assert!(theirs.len() >= 3, "{} runs by QEMU", theirs.len());
    for run in theirs {
        assert_eq!(run.outcome, RunOutcome::Completed, "{:?}: {:?}", run.engine, run.error);
        assert!(run.downtime_guest_us.is_some() && run.total_us.is_some(), "{run:?}");
        assert!(
            run.moved.bytes_sent > Some(0) && run.peer.as_ref().unwrap().dirty_sync_count.is_some(),
            "{run:?}"
        );
        // Old QEMUs lose vector registers on some hosts' KVM, which is theirs to mend; memory they do not lose.
        let of_registers = |error: &String| error.contains("vector register");
        assert!(run.error.as_ref().is_none_or(of_registers), "{:?}", run.error);
        assert_eq!(run.verified, Some(run.guest_errors == Some(0)));
    }
    assert!(said.contains("QEMU's setting"), "{said}");
    let left: Vec<_> = fs::read_dir(folder.path().join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_qemu_that_dies_is_a_failed_run_with_its_last_words_and_ferry_goes_on() {
    let test = "a_qemu_that_dies_is_a_failed_run_with_its_last_words_and_ferry_goes_on";
    let Some(program) = qemu(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    // Sound when it is asked what it can do, and as a source; dead as a destination.
    let fake = folder.path().join("qemu");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-incoming*) echo 'cannot set up guest memory: Cannot allocate memory' >&2; exit \
         1;; esac\nexec '{}' \"$@\"\n",
        program.display()
    );
    fs::write(&fake, script).unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["--strategy", "stop-and-copy", "--against", "qemu", "--qemu", fake.to_str().unwrap()];
    let output = ferry_bench(&folder, &arguments);
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let runs = runs(&folder);
    let [ours, theirs] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!((ours.outcome, theirs.outcome), (RunOutcome::Completed, RunOutcome::Failed));
    let words = theirs.error.as_deref().unwrap_or_default();
    assert!(words.contains("Cannot allocate memory"), "{words}");
    assert!(said.contains("1/1 FAILED"), "{said}");
}
