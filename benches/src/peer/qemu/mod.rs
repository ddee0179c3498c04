//! QEMU's program and processes: what is there, and a source or a destination with the built-in guest in it.

use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    guest::GuestView,
    qmp::{Qmp, QmpError},
    settings::Setting,
};
use crate::{
    interrupt,
    network::{GUEST_MAC, Place, TAP},
    plan::Workload,
    rig::Process,
};

/// How long QEMU's control socket is waited for: it comes after memory was allocated.
const PATIENCE: Duration = Duration::from_secs(60);

/// The machine of QEMU's that the built-in guest boots in: the one most like Ferry's.
const MACHINE: &str = "microvm,acpi=off,pit=on,pic=on,isa-serial=on,rtc=on,memory-backend=memory";

/// A QEMU that runs on this host.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    version: String,
    capabilities: Vec<String>,
}

/// Where one QEMU runs, where its files go, and under which name.
#[derive(Clone, Copy)]
pub struct Post<'a> {
    /// `source` or `destination`.
    pub name: &'a str,
    /// The harness's runtime folder.
    pub runtime: &'a Path,
    /// In which network.
    pub place: Place<'a>,
}

impl Qemu {
    /// Starts QEMU without a machine, and asks what it is and what it can do.
    ///
    /// # Errors
    /// If there is none, or it does not answer, in words for one line.
    pub fn find(program: &Path, runtime: &Path) -> Result<Qemu> {
        let post = Post { name: "probe", runtime, place: None };
        let arguments = words(&["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]);
        let (_process, mut qmp) = start(program, &arguments, post)?;
        let answer = qmp.execute("query-migrate-capabilities", Value::Null)?;
        let capabilities = answer.as_array().into_iter().flatten();
        let capabilities =
            capabilities.filter_map(|one| Some(one["capability"].as_str()?.to_owned())).collect();
        Ok(Qemu { program: program.to_owned(), version: qmp.version().to_owned(), capabilities })
    }

    /// Such as `10.0.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What this QEMU lacks for a setting, by QEMU's name.
    pub fn lacks(&self, setting: Setting) -> Option<&'static str> {
        let missing = |name: &&&str| !self.capabilities.iter().any(|has| has == *name);
        setting.capabilities().iter().find(missing).copied()
    }
}

/// A QEMU process, its control socket, and its guest's memory.
pub struct Side {
    /// Its process.
    pub process: Process,
    /// Its control socket.
    pub qmp: Qmp,
    /// What the guest writes.
    pub guest: GuestView,
}

impl Side {
    /// Starts QEMU with a guest in it, which boots; or with one that waits to be sent, if `incoming`.
    ///
    /// # Errors
    /// If QEMU does not start, with its words.
    pub fn start(qemu: &Qemu, machine: &Machine<'_>, post: Post<'_>) -> Result<Side> {
        let (process, mut qmp) = start(&qemu.program, &machine.arguments(), post)?;
        let line = format!("gpa2hva {:#x}", telemetry::TELEMETRY_ADDRESS);
        let said = qmp.execute("human-monitor-command", json!({ "command-line": line }))?;
        let said = said.as_str().unwrap_or_default();
        let address = host_address(said)
            .with_context(|| format!("QEMU does not say where the guest's memory is, but {said:?}"))?;
        let guest = GuestView::open(process.id(), address, machine.workload.vcpus)?;
        Ok(Side { process, qmp, guest })
    }

    /// The reason for an error: QEMU's last words if it has ended, the error itself if not.
    pub fn explain(&mut self, error: QmpError) -> anyhow::Error {
        match error {
            QmpError::Gone => self.process.ended(),
            error => error.into(),
        }
    }
}

/// The guest, and how QEMU is to hold it.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// What it is and does.
    pub workload: &'a Workload,
    /// The built-in guest's image.
    pub image: &'a Path,
    /// The guest's command line.
    pub command_line: &'a str,
    /// Its memory is allocated before anything starts, as is fair: not at a destination of post-copy, which would give
    /// it back first.
    pub preallocate: bool,
    /// It waits for a guest.
    pub incoming: bool,
    /// It has a network card, on the tap that Ferry's guest has.
    pub has_network: bool,
    /// The kernel runs that card (vhost).
    pub vhost: bool,
}

impl Machine<'_> {
    fn arguments(&self) -> Vec<OsString> {
        let memory = self.workload.memory_bytes;
        let preallocate = if self.preallocate { "on" } else { "off" };
        let backend = format!("memory-backend-ram,id=memory,size={memory},prealloc={preallocate}");
        let mut arguments = words(&[
            // The guest's own CPU, but for a register that some hosts' KVM announces and cannot restore.
            "-enable-kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-machine",
            MACHINE,
            "-global",
            "virtio-mmio.force-legacy=false",
            "-object",
            &backend,
            "-m",
            &format!("{}K", memory >> 10),
            "-smp",
            &self.workload.vcpus.to_string(),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "null",
            "-append",
            self.command_line,
            "-kernel",
        ]);
        arguments.push(self.image.into());
        if self.has_network {
            let vhost = if self.vhost { "on" } else { "off" };
            let tap = format!("tap,id=guests,ifname={TAP},script=no,downscript=no,vhost={vhost}");
            let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
            let card = format!("virtio-net-device,netdev=guests,mac={mac}");
            arguments.extend(words(&["-netdev", &tap, "-device", &card]));
        }
        if self.incoming {
            arguments.extend(words(&["-incoming", "defer"]));
        }
        arguments
    }
}

/// Starts QEMU and waits for its control socket.
fn start(program: &Path, arguments: &[OsString], post: Post<'_>) -> Result<(Process, Qmp)> {
    let socket = post.runtime.join(format!("qemu-{}.sock", post.name));
    // Of the run before.
    std::fs::remove_file(&socket).ok();
    let mut option = OsString::from("unix:");
    option.push(&socket);
    option.push(",server=on,wait=off");
    let mut command = Command::new(program);
    command.args(arguments).arg("-qmp").arg(option);
    let role = format!("QEMU's {}", post.name);
    let process = Process::spawn(&role, command, post.runtime, post.place);
    let mut process = process.map_err(|error| explain(error, program))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        process.check()?;
        match Qmp::connect(&socket) {
            Ok(qmp) => return Ok((process, qmp)),
            Err(QmpError::Gone) => return Err(process.ended()),
            Err(QmpError::Io(error)) if is_early(error.kind()) && Instant::now() < deadline => {}
            Err(QmpError::Io(error)) if is_early(error.kind()) => {
                bail!("QEMU made no control socket within {} s", PATIENCE.as_secs())
            }
            Err(error) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_early(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// That there is no QEMU is said with what to do about it.
fn explain(error: anyhow::Error, program: &Path) -> anyhow::Error {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    match kind {
        Some(ErrorKind::NotFound) => anyhow::anyhow!(
            "there is no {} (on Debian and Ubuntu: apt install qemu-system-x86; or name another with --qemu)",
            program.display()
        ),
        _ => error,
    }
}

/// `Host virtual address for 0x100000 (memory) is 0x7f5a3c100000`
fn host_address(said: &str) -> Option<u64> {
    let word = said.rsplit_once(" is 0x")?.1;
    u64::from_str_radix(word.trim(), 16).ok()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests;
