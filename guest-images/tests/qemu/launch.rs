//! QEMU's command line.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use guest_images::pulse::IMAGE;
use tempfile::TempDir;

const QEMU: &str = "qemu-system-x86_64";

/// Who runs the guest's instructions.
#[derive(Clone, Copy)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub fn best() -> Self {
        if File::options().read(true).write(true).open("/dev/kvm").is_ok() { Self::Kvm } else { Self::Tcg }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-enable-kvm", "-cpu", "host,-arch-capabilities"],
            Self::Tcg => &["-accel", "tcg", "-cpu", "max"],
        }
    }
}

/// What the machine looks like.
#[derive(Clone, Copy)]
pub enum MachineKind {
    Microvm,
    Q35,
    Pc,
}

impl MachineKind {
    const fn argument(self) -> &'static str {
        match self {
            Self::Microvm => "microvm,acpi=off,pit=on,pic=on,isa-serial=on,rtc=on,memory-backend=memory",
            Self::Q35 => "q35,memory-backend=memory",
            Self::Pc => "pc,memory-backend=memory",
        }
    }
}

/// A machine to start, and what its guest is told.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    pub kind: MachineKind,
    pub by: Accelerator,
    pub memory_bytes: u64,
    pub vcpus: u64,
    /// The guest's command line.
    pub line: &'a str,
    /// Devices besides the usual ones, as QEMU's arguments.
    pub devices: &'a [String],
}

/// A QEMU just started.
pub struct Launched {
    pub qemu: Child,
    /// Guest memory.
    pub memory: File,
    pub directory: TempDir,
}

/// `None`, with the reason, if there is no QEMU.
pub fn launch(order: Order<'_>) -> Option<Launched> {
    let Order { kind, by, memory_bytes, vcpus, line, devices } = order;
    let shm = Path::new("/dev/shm");
    let directory = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let (image, memory) = (directory.path().join("pulse"), directory.path().join("memory"));
    std::fs::write(&image, IMAGE).unwrap();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&memory).unwrap();
    file.set_len(memory_bytes).unwrap();
    let backend =
        format!("memory-backend-file,id=memory,share=on,size={memory_bytes},mem-path={}", memory.display());
    let spawned = Command::new(QEMU)
        .args(by.arguments())
        .args(["-M", kind.argument(), "-object", &backend])
        .args(["-m", &format!("{}M", memory_bytes >> 20), "-smp", &vcpus.to_string()])
        .args(devices)
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-append", line, "-kernel"])
        .arg(&image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let qemu = match spawned {
        Ok(qemu) => qemu,
        Err(error) => {
            let thread = std::thread::current();
            println!("skipped: {}: cannot run {QEMU}: {error}", thread.name().unwrap_or("a test"));
            return None;
        }
    };
    Some(Launched { qemu, memory: file, directory })
}
