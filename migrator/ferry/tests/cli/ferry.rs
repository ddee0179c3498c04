//! A user's runtime folder, and the processes in it.

use std::{
    fmt,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One user's VMs; what still runs when this is dropped is ended.
pub struct Host {
    runtime: TempDir,
    wrapper: Vec<String>,
}

impl Host {
    pub fn new() -> Host {
        Host::wrapped(&[])
    }

    /// Runs every `ferry` by way of another program.
    pub fn wrapped(wrapper: &[&str]) -> Host {
        let runtime = tempfile::Builder::new().prefix("ferry").tempdir().expect("a folder");
        Host { runtime, wrapper: wrapper.iter().map(ToString::to_string).collect() }
    }

    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.runtime().join("ferry").join(format!("{name}.sock"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let ferry = env!("CARGO_BIN_EXE_ferry");
        let mut words: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        words.push(ferry);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments).env("XDG_RUNTIME_DIR", self.runtime());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn ferry(&self, arguments: &[&str]) -> Done {
        let child = self.command(arguments).spawn().expect("ferry starts");
        Done::of(arguments, child)
    }

    /// Runs a command to its end, its standard output going elsewhere.
    pub fn ferry_into(&self, stdout: File, arguments: &[&str]) -> Done {
        let child = self.command(arguments).stdout(stdout).spawn().expect("ferry starts");
        Done::of(arguments, child)
    }

    /// Starts a command that stays.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::of(self.command(arguments).spawn().expect("ferry starts"))
    }

    /// As [`Host::start`], with a command that was changed meanwhile.
    pub fn start_as(&self, mut command: Command) -> Running {
        Running::of(command.spawn().expect("ferry starts"))
    }

    /// Starts a command that stays, and can be typed to.
    #[cfg(feature = "kvm")]
    pub fn start_typing(&self, arguments: &[&str]) -> Running {
        Running::of(self.command(arguments).stdin(Stdio::piped()).spawn().expect("ferry starts"))
    }

    /// A simulated guest in the background.
    pub fn run_sim(&self, name: &str, options: &[&str]) {
        let mut arguments = vec!["run", "sim", "--memory", "16MiB", "--name", name, "--detach"];
        arguments.extend(options);
        self.ferry(&arguments).succeeds();
    }

    /// A destination in the background; returns its address.
    pub fn receive(&self, name: &str) -> String {
        let done = self.ferry(&["receive", "--simulated", "tcp://127.0.0.1:0", "--name", name, "--detach"]);
        let line = done.succeeds().lines().next().unwrap_or_default().to_owned();
        line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    pub fn info(&self, name: &str) -> Value {
        let done = self.ferry(&["info", name, "--json"]);
        serde_json::from_str(done.succeeds()).expect("JSON")
    }

    pub fn status(&self, name: &str) -> String {
        self.info(name)["vm"]["status"].as_str().unwrap_or_default().to_owned()
    }

    /// A process that has just been started has its name and answers.
    pub fn await_answer(&self, name: &str) {
        await_that(&format!("{name} answers"), || self.ferry(&["info", name]).code == 0);
    }

    pub fn await_status(&self, name: &str, wanted: &str) {
        let begin = Instant::now();
        while self.status(name) != wanted {
            assert!(
                begin.elapsed() < PATIENCE,
                "{name} is not {wanted} within {PATIENCE:?}: {}",
                self.all_there_is()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What every VM here says of itself, for who has to find out why a test failed.
    fn all_there_is(&self) -> String {
        let names = self.ferry(&["ps", "--json"]);
        let names: Vec<Value> = serde_json::from_str(&names.stdout).unwrap_or_default();
        names
            .iter()
            .filter_map(|vm| vm["name"].as_str())
            .map(|name| self.ferry(&["info", name, "--json"]).stdout)
            .collect()
    }

    /// The guest lives here: it makes steps, and finds all of its memory right.
    pub fn assert_alive(&self, name: &str) {
        let written = || self.info(name)["guest"]["pages_written"].as_u64().unwrap_or(0);
        let before = written();
        await_that(&format!("{name} makes steps"), || written() > before);
        let check = self.ferry(&["check", name]);
        assert!(check.succeeds().contains(" 0 errors"), "{check:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Ok(files) = fs::read_dir(self.runtime().join("ferry")) else { return };
        for file in files.flatten() {
            if let Some(name) = file.file_name().to_string_lossy().strip_suffix(".sock") {
                // It may just have ended by itself; one that hangs must not hang the tests.
                if let Ok(mut child) = self.command(&["stop", name]).spawn() {
                    ended(&mut child);
                }
            }
        }
    }
}

/// Waits for something that must come true.
pub fn await_that(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A command that has ended.
pub struct Done {
    arguments: Vec<String>,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Done { arguments, code, stdout, stderr } = self;
        write!(f, "ferry {} exited with {code}\n{stdout}{stderr}", arguments.join(" "))
    }
}

impl Done {
    fn of(arguments: &[&str], mut child: Child) -> Done {
        let stdout = read_aside(child.stdout.take());
        let stderr = read_aside(child.stderr.take());
        let status = wait(&mut child);
        let text = |from: mpsc::Receiver<String>| from.recv_timeout(PATIENCE).expect("its words");
        Done {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            code: status.code().unwrap_or(-1),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    #[track_caller]
    pub fn succeeds(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// It failed with this code, and with one sentence that has these words.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for words in words {
            assert!(self.stderr.contains(words), "{words:?} is not said: {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }
}

/// A command that stays.
pub struct Running {
    pub child: Child,
    /// Of its standard output, each with its end.
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn of(mut child: Child) -> Running {
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Running { child, lines }
    }

    /// The next line of its standard output; nothing at its end.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line.trim_end().to_owned(),
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("ferry said nothing within {PATIENCE:?}"),
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it lives");
    }

    /// Waits for its end, whatever it says.
    pub fn ends_with_success(&mut self) -> bool {
        wait(&mut self.child).success()
    }

    /// Waits for its end; what else it said comes along.
    pub fn end(mut self) -> Output {
        let stderr = read_aside(self.child.stderr.take());
        let status = wait(&mut self.child);
        let mut stdout = String::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            stdout.push_str(&line);
        }
        let stderr = stderr.recv_timeout(PATIENCE).expect("its words").into_bytes();
        Output { status, stdout: stdout.into_bytes(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads a pipe to its end; what goes elsewhere reads as nothing.
fn read_aside(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.map(|mut from| from.read_to_end(&mut bytes).ok());
        sender.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    receiver
}

fn wait(child: &mut Child) -> ExitStatus {
    ended(child).unwrap_or_else(|| panic!("ferry did not end within {PATIENCE:?}"))
}

/// How it ended; nothing if it had to be ended.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("wait for ferry") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().ok();
    child.wait().ok();
    None
}
