//! A QEMU with a guest in it. Guest memory is a file, so that a test reads and writes it as a VMM would.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use guest_images::pulse::CommandLine;
use telemetry::snapshot::CheckResult;
use telemetry::{
    CHECK_REQUEST_ADDRESS, GAP_EPOCH_ADDRESS, STOP_REQUEST_ADDRESS, Snapshot, TELEMETRY_ADDRESS,
    TELEMETRY_BYTES,
};
use tempfile::TempDir;

use crate::launch::{Accelerator, Launched, MachineKind, Order, launch};

/// No guest takes so long for anything, even on a software CPU on a busy machine: whoever waits longer waits in vain.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running guest. Dropping it ends it.
pub struct Machine {
    qemu: Child,
    console: ChildStdin,
    lines: Receiver<String>,
    seen: Vec<String>,
    memory: File,
    _directory: TempDir,
}

impl Machine {
    pub fn start(memory_bytes: u64, line: &CommandLine) -> Option<Self> {
        Self::start_as(MachineKind::Microvm, Accelerator::best(), memory_bytes, line)
    }

    pub fn start_as(
        kind: MachineKind,
        by: Accelerator,
        memory_bytes: u64,
        line: &CommandLine,
    ) -> Option<Self> {
        let (vcpus, line) = (line.vcpus, line.to_string());
        Self::of(Order { kind, by, memory_bytes, vcpus, line: &line, devices: &[] })
    }

    pub fn start_with(line: &str, memory_bytes: u64) -> Option<Self> {
        let (kind, by) = (MachineKind::Microvm, Accelerator::best());
        Self::of(Order { kind, by, memory_bytes, vcpus: 1, line, devices: &[] })
    }

    /// With devices besides the usual ones, as QEMU's arguments.
    pub fn start_with_devices(memory_bytes: u64, line: &CommandLine, devices: &[String]) -> Option<Self> {
        let (kind, by, vcpus) = (MachineKind::Microvm, Accelerator::best(), line.vcpus);
        Self::of(Order { kind, by, memory_bytes, vcpus, line: &line.to_string(), devices })
    }

    fn of(order: Order<'_>) -> Option<Self> {
        let Launched { mut qemu, memory, directory } = launch(order)?;
        let (sender, lines) = channel();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let console = qemu.stdin.take().unwrap();
        Some(Self { qemu, console, lines, seen: Vec::new(), memory, _directory: directory })
    }

    /// Guest memory below 3 GiB lies in the file as it lies in the guest.
    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.memory.read_exact_at(&mut buffer, address).unwrap();
        buffer
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address).unwrap();
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::parse(&self.read(TELEMETRY_ADDRESS, TELEMETRY_BYTES)).unwrap()
    }

    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&Snapshot) -> bool) {
        let start = Instant::now();
        loop {
            let bytes = self.read(TELEMETRY_ADDRESS, TELEMETRY_BYTES);
            match Snapshot::parse(&bytes) {
                Ok(snapshot) if is_so(&snapshot) => return,
                state => {
                    assert!(start.elapsed() < PATIENCE, "no {what}: {state:?}");
                    if let Some(status) = self.qemu.try_wait().unwrap() {
                        panic!("no {what}: QEMU ended with {status}, console {:?}", self.drain());
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks for a check of all memory and waits for its result.
    pub fn check(&mut self) -> CheckResult {
        let request = self.snapshot().next_check_request();
        self.write(CHECK_REQUEST_ADDRESS, &request.to_le_bytes());
        self.wait_until("check", |snapshot| snapshot.check_result(request).is_some());
        self.snapshot().check_result(request).unwrap()
    }

    pub fn begin_gap_epoch(&self, epoch: u64) {
        self.write(GAP_EPOCH_ADDRESS, &epoch.to_le_bytes());
    }

    /// Stops all of QEMU's threads, and lets them go on when they have stood still for a while.
    pub fn pause_for(&self, pause: Duration) {
        self.signal("-STOP");
        let start = Instant::now();
        while !self.stands_still() {
            assert!(start.elapsed() < PATIENCE, "QEMU does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(pause);
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.qemu.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Each thread's state, behind its name in parentheses, is `T`.
    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.qemu.id())).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        })
    }

    pub fn type_line(&mut self, line: &str) {
        writeln!(self.console, "{line}").unwrap();
    }

    pub fn wait_for_line(&mut self, part: &str) {
        let start = Instant::now();
        while !self.seen.iter().any(|line| line.contains(part)) {
            // A guest that prints without end must not be listened to without end.
            let left = PATIENCE.checked_sub(start.elapsed()).ok_or(RecvTimeoutError::Timeout);
            match left.and_then(|left| self.lines.recv_timeout(left)) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no {part:?} on the console ({error}): {:?}", self.seen),
            }
        }
    }

    /// All that the guest said; QEMU has ended, and with it its output.
    fn drain(&mut self) -> &[String] {
        self.seen.extend(self.lines.iter());
        &self.seen
    }

    /// Asks the guest to stop, and returns the code it stopped with.
    pub fn stop(&mut self, code: u64) -> i32 {
        self.write(STOP_REQUEST_ADDRESS, &(code + 1).to_le_bytes());
        self.wait_for_exit()
    }

    /// The guest's exit code: QEMU's isa-debug-exit makes `2 * code + 1` of it.
    pub fn wait_for_exit(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                return (status.code().expect("QEMU was killed") - 1) / 2;
            }
            assert!(start.elapsed() < PATIENCE, "the guest does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
