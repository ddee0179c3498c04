//! The same as an ordinary user, inside a user namespace.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use migrator::host_network::UserNamespace;

/// `nobody`, where the tests run as root.
const NOBODY: u32 = 65_534;
const INSIDE: &str = "FERRY_TEST_IN_USER_NAMESPACE";

#[test]
fn an_ordinary_user_has_the_same_network() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let name = "an_ordinary_user_has_the_same_network";
    let is_root = rustix::process::geteuid().is_root();
    // The build's folder may be closed to other users.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("network-tests");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();

    let mut command = Command::new(program);
    command
        .args(["moves::", "shaped::", "a_dropped_network", "--nocapture"])
        .env(INSIDE, "1")
        .current_dir("/");
    if is_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    // SAFETY: these make system calls only. The maps are prepared in the child too, since it is another user there;
    // that takes no lock but the allocator's, which the C library makes usable after a fork.
    unsafe {
        command.pre_exec(|| {
            // Who has just become another user may not write to its own /proc/self.
            libc::prctl(libc::PR_SET_DUMPABLE, 1);
            UserNamespace::of_this_user().enter()
        });
    }
    let output = match command.output() {
        Ok(output) => output,
        // No permission, or none left of as many as there may be.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSPC | libc::ENOSYS)) => {
            println!("skipped: {name}: no user namespace: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("9 passed"), "{said}");
    if said.contains("skipped: ") {
        println!("skipped: {name}: a user namespace without rights: {said}");
    }
}
