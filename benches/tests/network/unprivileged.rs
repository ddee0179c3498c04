//! The same as an ordinary user, inside a user namespace.

use std::{
    env,
    ffi::{CStr, CString},
    fs::{self, Permissions},
    io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
    ptr,
};

use linux_host::network::{self, UserNamespace};

/// `nobody`, where the tests run as root.
const NOBODY: u32 = 65_534;
const INSIDE: &str = "FERRY_TEST_IN_USER_NAMESPACE";

#[test]
fn an_ordinary_user_has_the_same_network() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let name = "an_ordinary_user_has_the_same_network";
    if let Err(error) = network::tap() {
        println!("skipped: {name}: /dev/net/tun: {error}");
        return;
    }
    // The build's folder may be closed to other users.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("network-tests");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();

    let mut command = Command::new(program);
    // One at a time: a process that one test starts has another's tap until it runs its program.
    command
        .args(["moves::", "shaped::", "a_dropped_network", "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .current_dir("/");
    let tun = rustix::process::geteuid().is_root().then(|| tun_for_everybody(folder.path()).unwrap());
    // SAFETY: these make system calls only. The maps are prepared in the child too, since it is another user there;
    // that takes no lock but the allocator's, which the C library makes usable after a fork.
    unsafe {
        command.pre_exec(move || {
            if let Some(tun) = &tun {
                become_nobody(tun)?;
            }
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
    assert!(said.contains("10 passed"), "{said}");
    if said.contains("skipped: ") {
        println!("skipped: {name}: a user namespace without rights: {said}");
    }
}

/// Another door to the host's taps, open to everybody, as the host's own is on most hosts and not on all.
fn tun_for_everybody(folder: &Path) -> io::Result<CString> {
    let path = folder.join("tun");
    let device = rustix::fs::stat("/dev/net/tun")?.st_rdev;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, 0o666.into(), device)?;
    // Whatever the umask takes away.
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Becomes an ordinary user for whom `tun` is at its usual place. Makes system calls only.
fn become_nobody(tun: &CStr) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let mount = |from: &CStr, to: &CStr, flags| {
        // SAFETY: both paths are strings, and these mounts have neither a type nor data.
        check(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), flags, ptr::null()) })
    };
    // SAFETY: changes this process's view of mounts, and no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(tun, c"/dev/net/tun", libc::MS_BIND)?;
    // SAFETY: a list of no groups is not read; the others take a number.
    unsafe {
        check(libc::setgroups(0, ptr::null()))?;
        check(libc::setgid(NOBODY))?;
        check(libc::setuid(NOBODY))
    }
}
