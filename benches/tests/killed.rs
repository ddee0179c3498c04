//! A harness that is killed in the middle of a run, and the next one: no process, no namespace, no interface and no file is
//! left.

mod held;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Enough memory to be at it for a while, on simulated guests: this is about processes and files.
const SIMULATED: [&str; 7] =
    ["--simulated", "--memory", "256MiB", "--runs", "20", "--strategy", "stop-and-copy"];
const SIMULATED_NEXT: [&str; 9] =
    ["--simulated", "--memory", "16MiB", "--working-set", "1MiB", "--runs", "1", "--strategy", "pre-copy"];
/// Real guests, with a client, over a network of namespaces.
const REAL: [&str; 8] =
    ["--memory", "64MiB", "--working-set", "1MiB", "--runs", "20", "--strategy", "stop-and-copy,pre-copy"];
const REAL_NEXT: [&str; 8] =
    ["--memory", "64MiB", "--working-set", "1MiB", "--runs", "1", "--strategy", "pre-copy"];

/// A harness with a folder of its own.
struct Harness {
    folder: TempDir,
    child: Child,
}

impl Harness {
    fn start(arguments: &[&str]) -> Harness {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(temporary(&folder)).unwrap();
        let child = ferry_bench(&folder, arguments);
        Harness { folder, child }
    }

    /// Where it keeps control sockets.
    fn runtime(&self) -> PathBuf {
        temporary(&self.folder).join(format!("ferry-bench-{}", self.child.id()))
    }

    /// The processes that name its runtime folder, on their command line or in their environment; whoever started them.
    fn processes(&self) -> Vec<PathBuf> {
        let runtime = self.runtime();
        let needle = runtime.to_str().unwrap().as_bytes();
        let names_it = |file: PathBuf| {
            fs::read(file).is_ok_and(|words| words.windows(needle.len()).any(|word| word == needle))
        };
        held::processes()
            .filter(|process| names_it(process.join("cmdline")) || names_it(process.join("environ")))
            .collect()
    }

    /// Those of them that run such a program.
    fn running(&self, program: &str) -> usize {
        let is_it = |process: &PathBuf| {
            fs::read_link(process.join("exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().contains(program)))
        };
        self.processes().iter().filter(|process| is_it(process)).count()
    }

    /// All network namespaces of it and of its processes, but for the one that this test is in.
    fn namespaces(&self) -> Vec<String> {
        let own = held::namespaces_of(Path::new("/proc/self"));
        let harness = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut names: Vec<String> =
            self.processes().iter().chain([&harness]).flat_map(|p| held::namespaces_of(p)).collect();
        names.retain(|name| !own.contains(name));
        names.sort();
        names.dedup();
        names
    }

    fn signal(&self, signal: Signal) {
        let ids =
            self.processes().into_iter().filter_map(|process| process.file_name()?.to_str()?.parse().ok());
        for id in ids.filter_map(Pid::from_raw) {
            // It may have ended meanwhile.
            kill_process(id, signal).ok();
        }
    }

    /// Kill -9: no drop, no handler. Then nothing may be left but its folder, and the next harness works and clears that.
    fn kill_and_look(mut self, next: &[&str]) {
        let namespaces = self.namespaces();
        // So that none ends by itself, because its work is done or its peer is gone.
        self.signal(Signal::STOP);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        wait_until("its processes end with it", || self.processes().is_empty());
        held::wait_until_gone(&namespaces);
        assert!(self.runtime().exists(), "nobody was there to remove it");

        let next = ferry_bench(&self.folder, next).wait().unwrap();
        assert!(next.success(), "{next}");
        let left: Vec<PathBuf> = held::entries(&temporary(&self.folder)).collect();
        assert!(left.is_empty(), "{left:?} were left behind");
        // What the network consists of was never the host's.
        let ours = ["guests", "uplink", "migration", "ferry0", "source", "destination"];
        let seen = held::host_interfaces();
        assert!(ours.iter().all(|name| !seen.iter().any(|seen| seen == name)), "{seen:?}");
    }
}

/// What a test that fails has left.
impl Drop for Harness {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        self.signal(Signal::KILL);
    }
}

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

/// Whether real guests can be run here, in a network; if not the test says so by its name.
fn has_machines(test: &str) -> bool {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        println!("skipped: {test}: /dev/kvm: {error}");
        return false;
    }
    if let Err(error) = linux_host::network::permitted() {
        println!("skipped: {test}: no network of namespaces: {}", engine::report::in_words(&error));
        return false;
    }
    true
}

#[test]
fn a_killed_harness_leaves_no_process_and_the_next_one_clears_its_folder() {
    let test = "a_killed_harness_leaves_no_process_and_the_next_one_clears_its_folder";
    if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", 0)) {
        println!("skipped: {test}: no TCP on loopback: {error}");
        return;
    }
    let harness = Harness::start(&SIMULATED);
    wait_until("source and destination run", || harness.running("ferry-bench") >= 2);
    harness.kill_and_look(&SIMULATED_NEXT);
}

/// At two moments: when the first guest is being prepared, and when one has been moved and the next is under way.
#[test]
fn a_harness_killed_amid_guests_and_their_network_leaves_nothing() {
    let test = "a_harness_killed_amid_guests_and_their_network_leaves_nothing";
    if !has_machines(test) {
        return;
    }
    for made in [0, 1] {
        let harness = Harness::start(&REAL);
        let results = harness.folder.path().join("report/results.json");
        let runs = || benches::results::read(&results).map_or(0, |results| results.runs.len());
        wait_until("so many runs are made", || runs() >= made);
        wait_until("source and destination run", || harness.running("ferry-bench") >= 2);
        // Source, destination, client.
        wait_until("its network is there", || harness.namespaces().len() >= 3);
        harness.kill_and_look(&REAL_NEXT);
    }
}

#[test]
fn a_harness_killed_amid_qemus_leaves_nothing() {
    let test = "a_harness_killed_amid_qemus_leaves_nothing";
    if !has_machines(test) {
        return;
    }
    let program = env::var_os("FERRY_TEST_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
    if let Err(error) = Command::new(&program).arg("--version").output() {
        println!("skipped: {test}: cannot run {}: {error}", Path::new(&program).display());
        return;
    }
    let against = [&REAL[..], &["--against", "qemu", "--qemu", program.to_str().unwrap()]].concat();
    let harness = Harness::start(&against);
    wait_until("two QEMUs run", || harness.running("qemu") >= 2 && harness.namespaces().len() >= 3);
    harness.kill_and_look(&REAL_NEXT);
}
