//! A VM's process that a shell has in the background, on a terminal of its own.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::termios::{LocalModes, tcgetattr};

use crate::ferry::{Host, await_that};

/// A shell on a terminal, and what is seen there.
struct Shell {
    child: Child,
    keyboard: File,
    terminal: File,
    screen: Arc<Mutex<String>>,
}

impl Shell {
    fn on(host: &Host) -> Shell {
        let (mut master, mut slave) = (0, 0);
        let no = std::ptr::null_mut();
        // SAFETY: both places are there to be written to; null asks for no name, and for the usual modes and size.
        let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, no, no.cast(), no.cast()) };
        assert_eq!(made, 0, "a pseudo-terminal");
        // SAFETY: both were opened just now, for nobody else.
        let [keyboard, terminal] = [master, slave].map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        for fd in [&keyboard, &terminal] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).expect("a descriptor of ours");
        }
        let mut shell = Command::new("sh");
        shell.arg("-i").env("PS1", "$ ").env("XDG_RUNTIME_DIR", host.runtime()).env_remove("ENV");
        let stdio = || Stdio::from(terminal.try_clone().expect("another descriptor"));
        shell.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let controlling = terminal.try_clone().expect("another descriptor");
        let control = move || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(&controlling)?;
            Ok(())
        };
        // SAFETY: two system calls, which may be made between fork and exec.
        let child = unsafe { shell.pre_exec(control) }.spawn().expect("a shell");
        let screen = Arc::<Mutex<String>>::default();
        let (seen, mut from) = (screen.clone(), keyboard.try_clone().expect("another descriptor"));
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                seen.lock().expect("no panics").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Shell { child, keyboard, terminal, screen }
    }

    fn types(&mut self, words: &str) {
        self.keyboard.write_all(words.as_bytes()).expect("a terminal");
    }

    fn seen(&self) -> String {
        self.screen.lock().expect("no panics").clone()
    }

    fn await_words(&self, words: &str) {
        await_that(&format!("{words:?} is seen"), || self.seen().contains(words));
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("a terminal").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `R`, `S`, or `T` of one that is stopped.
fn state_of(pid: u64) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?')
}

#[test]
fn entry_6_a_guest_that_arrives_in_a_shells_background_runs_and_has_the_terminal_in_the_foreground_only() {
    // A terminal may forbid words from the background.
    for forbids in ["stty -tostop", "stty tostop"] {
        let host = Host::new();
        let mut shell = Shell::on(&host);
        shell.types(&format!("{forbids}\n"));
        shell.types(&format!(
            "{} receive --simulated tcp://127.0.0.1:0 --name b &\n",
            env!("CARGO_BIN_EXE_ferry")
        ));
        host.await_answer("b");
        let address = host.info("b")["vm"]["listening"].as_str().unwrap().to_owned();
        host.run_sim("a", &[]);
        host.ferry(&["migrate", "a", &address]).succeeds();
        shell.await_words("a runs here");
        shell.await_words("Ctrl-] stops it.");
        host.assert_alive("b");
        let pid = host.info("b")["vm"]["pid"].as_u64().unwrap();
        assert!(!shell.is_raw(), "{}", shell.seen());
        // The keyboard is the shell's.
        shell.types("echo shell-$((40 + 2))\n");
        shell.await_words("shell-42");
        assert_ne!(state_of(pid), 'T', "{}", shell.seen());

        shell.types("fg\n");
        await_that("the guest has the terminal", || shell.is_raw());
        shell.types("hello\r");
        shell.await_words("heard hello");
        shell.types("\x1d");
        shell.await_words("stopped");
        await_that("the terminal is as it was", || !shell.is_raw());
        shell.types("echo shell-$((50 + 2))\n");
        shell.await_words("shell-52");
    }
}

/// A review of entry 22: lines typed for a guest that had left were run by the shell.
#[test]
fn entry_22_what_is_typed_for_a_guest_that_has_left_does_not_reach_the_shell() {
    let host = Host::new();
    let mut shell = Shell::on(&host);
    shell.types(&format!("{} run sim --memory 16MiB --name a\n", env!("CARGO_BIN_EXE_ferry")));
    host.await_answer("a");
    let pid = host.info("a")["vm"]["pid"].as_u64().unwrap();
    let address = host.receive("b");
    let migrate = host.start(&["migrate", "a", &address, "-s", "post-copy", "--max-bandwidth", "16Mbit"]);
    host.await_status("b", "running");
    shell.await_words("runs at tcp://");
    shell.types("echo typed-$((1 + 1))\n");
    shell.await_words("what is typed here is not read");
    shell.types("echo typed-$((1 + 2))");
    assert!(migrate.end().status.success());
    await_that("the source's process ends", || !host.socket("a").exists() && state_of(pid) == '?');
    shell.types("\necho shell-$((50 + 2))\n");
    shell.await_words("shell-52");
    let seen = shell.seen();
    assert!(!seen.contains("typed-2") && !seen.contains("typed-3"), "{seen}");
}
