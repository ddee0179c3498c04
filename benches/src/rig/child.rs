//! A process of the rig, ended on every path.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use super::left_over;
use crate::{host, interrupt, network::Place};

/// A process that runs as long as this value lives, and no longer: not even if the harness is killed.
pub struct Process {
    role: String,
    child: Child,
    lines: Receiver<String>,
    complaints: Option<thread::JoinHandle<String>>,
}

impl Process {
    /// Runs this program in a role, with `runtime` as its runtime folder.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(role: &str, arguments: &[String], runtime: &Path, place: Place<'_>) -> Result<Process> {
        let program = env::current_exe().context("find the program that runs")?;
        let mut command = Command::new(program);
        command.arg(role).args(arguments).env("XDG_RUNTIME_DIR", runtime);
        Process::spawn(role, command, runtime, place)
    }

    /// Runs any program, which is written down in the runtime folder.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(role: &str, mut command: Command, runtime: &Path, place: Place<'_>) -> Result<Process> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the harness, which then ends its processes itself.
            .process_group(0);
        die_with_parent(&mut command);
        if let Some((network, side)) = place {
            network.enter(side, &mut command)?;
        }
        let mut child = command.spawn().with_context(|| format!("start a process for {role}"))?;
        left_over::record(runtime, child.id());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (say, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more: go on reading, so that the process does not block.
                say.send(line).ok();
            }
        });
        let complaints = Some(thread::spawn(move || last_words(stderr)));
        Ok(Process { role: role.to_owned(), child, lines, complaints })
    }

    /// The next line of its output.
    ///
    /// # Errors
    /// If it ends or says nothing for so long, with what it said to stderr; or if the user interrupts.
    pub fn next_line(&mut self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    bail!("the process for {} said nothing for {} s", self.role, patience.as_secs())
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If it does not, with what it said last.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for a process")? {
            None => Ok(()),
            Some(_) => Err(self.ended()),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used so far, in clock ticks.
    pub fn ticks(&self) -> u64 {
        host::process_ticks(self.child.id())
    }

    /// Ends it, and says what it had to say.
    pub fn ended(&mut self) -> anyhow::Error {
        let status = self.reap();
        let words = self.complaints.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        match words.trim() {
            "" => anyhow!("the process for {} ended ({status}) and said nothing", self.role),
            words => anyhow!("the process for {} ended ({status}): {words}", self.role),
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        // By its own handle: a process that has ended and was waited for is not killed again.
        self.child.kill().ok();
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.reap().ok();
    }
}

/// Has the kernel kill the command's process when the thread that starts it ends, however that comes about.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl with these arguments is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The end of what a process says; the rest is read and forgotten.
fn last_words(mut from: ChildStderr) -> String {
    const KEPT: usize = 4096;
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
