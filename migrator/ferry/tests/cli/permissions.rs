//! What this user may not do is said, with what to do about it.

#![cfg(feature = "kvm")]

use std::{os::unix::fs::chown, path::Path, process::Command};

use crate::ferry::{Host, await_that};

/// The user that nobody is.
const NOBODY: u32 = 65534;

/// Whether a command can be run here; says so if not.
fn works(test: &str, words: &[&str]) -> bool {
    let why = match Command::new(words[0]).args(&words[1..]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("{}: {error}", words[0]),
    };
    println!("skipped: {test}: cannot be tried here: {why}");
    false
}

/// A host where this user is nobody, and `/dev/kvm` has this mode whatever it has here.
fn as_nobody(test: &str, kvm_mode: &str) -> Option<Host> {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: {test}: /dev/kvm does not exist");
        return None;
    }
    let nobody = NOBODY.to_string();
    let with_kvm = "mount -t tmpfs none /dev/shm && cp -a /dev/kvm /dev/shm && chmod \"$0\" /dev/shm/kvm && \
                    mount --bind /dev/shm/kvm /dev/kvm && exec \"$@\"";
    let words = [
        &["unshare", "--mount", "sh", "-c", with_kvm, kvm_mode][..],
        &["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--bounding-set", "-all"],
    ]
    .concat();
    let ferry = env!("CARGO_BIN_EXE_ferry");
    if !works(test, &[&words[..], &["true"]].concat())
        || !works(test, &[&words[..], &[ferry, "help"]].concat())
    {
        return None;
    }
    let host = Host::wrapped(&words);
    chown(host.runtime(), Some(NOBODY), None).ok()?;
    Some(host)
}

#[test]
fn an_absent_kvm_is_told_and_simulated_guests_run_without() {
    let test = "an_absent_kvm_is_told_and_simulated_guests_run_without";
    let words =
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev && : > /dev/null && exec \"$@\"", "sh"];
    if !works(test, &[&words[..], &["true"]].concat()) {
        return;
    }
    let host = Host::wrapped(&words);
    host.ferry(&["run", "pulse"]).fails(1, &["/dev/kvm does not exist"]);
    let doctor = host.ferry(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.stdout.contains("ferry run sim"), "{doctor:?}");
}

#[test]
fn a_kvm_that_may_not_be_opened_is_told() {
    let test = "a_kvm_that_may_not_be_opened_is_told";
    let Some(host) = as_nobody(test, "0660") else { return };
    host.ferry(&["run", "pulse"]).fails(1, &["/dev/kvm", "group"]);
    host.run_sim("a", &[]);
    host.assert_alive("a");
}

#[test]
fn userfaultfd_that_is_not_permitted_refuses_post_copy_only() {
    let test = "userfaultfd_that_is_not_permitted_refuses_post_copy_only";
    let Some(host) = as_nobody(test, "0666") else { return };
    let doctor = host.ferry(&["doctor"]);
    if !doctor.stdout.contains("userfaultfd is not permitted") {
        println!("skipped: {test}: here anybody may use userfaultfd: {}", doctor.stdout);
        return;
    }
    host.ferry(&["run", "pulse", "--memory", "32MiB", "-d"]).succeeds();
    await_that("pulse is ready", || host.info("pulse")["guest"]["ready"] == true);
    let address = host.receive("b");
    host.ferry(&["migrate", "pulse", &address, "-s", "post-copy"]).fails(
        1,
        &["pulse was not moved and runs on here", "userfaultfd is not permitted", "CAP_SYS_PTRACE"],
    );
    host.assert_alive("pulse");
    host.ferry(&["migrate", "pulse", &address, "--verify"]).succeeds();
    host.assert_alive("b");
}
