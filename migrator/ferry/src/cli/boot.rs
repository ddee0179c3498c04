//! What to run, and the machine for it.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, bail};

#[cfg(feature = "kvm")]
use super::devices::ConsoleKind;
use super::{devices::Devices, units::show_bytes};
use crate::{
    daemon::Facts,
    machine::{Backing, Machine},
};
use engine::{
    pages::PAGE_SIZE,
    sim::{SimVm, SimWorkload},
};

/// The command line of a kernel that is given none: where Linux's console is, and a reset, which ends it here, as soon as
/// it panics.
#[cfg(feature = "kvm")]
pub fn linux_command_line(console: ConsoleKind) -> &'static str {
    match console {
        ConsoleKind::Serial => "console=ttyS0 panic=-1",
        ConsoleKind::Virtio => "console=hvc0 panic=-1",
    }
}

/// What a simulated guest's console begins with; it goes along as all that follows.
const GREETING: &[u8] = b"A simulated guest says each line again.\r\n";

/// A guest to boot.
#[cfg_attr(not(feature = "kvm"), allow(dead_code))]
pub struct Guest {
    /// `pulse`, `linux`, `sim`, or nothing if a kernel is given.
    pub image: Option<String>,
    /// A kernel to boot.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: Option<String>,
    /// `key=value` options of pulse and sim.
    pub words: Vec<String>,
    /// Memory.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// What holds the memory.
    pub backing: Backing,
    /// Devices beside the console.
    pub devices: Devices,
}

impl Guest {
    /// The name to go by unless the user wants another: that of the image.
    pub fn default_name(&self) -> String {
        let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = self.kernel.as_ref().and_then(stem).or_else(|| self.image.clone()).unwrap_or_default();
        // A file may be called anything, a VM may not.
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        if name.is_empty() { "vm".to_owned() } else { name.chars().take(40).collect() }
    }

    /// A running machine with this guest in it. `console` is where its console goes.
    pub fn boot(&self, name: &str, console: Box<dyn Write + Send>) -> anyhow::Result<(Machine, Facts)> {
        match self.image.as_deref() {
            Some("sim") => self.simulate(name, console),
            Some("pulse" | "linux") | None => self.boot_kvm(name, console),
            Some(other) => bail!(
                "there is no built-in guest called {other:?}: choose pulse, linux or sim, or boot a kernel with --kernel FILE"
            ),
        }
    }

    fn simulate(&self, name: &str, console: Box<dyn Write + Send>) -> anyhow::Result<(Machine, Facts)> {
        if self.vcpus != 1 {
            bail!("a simulated guest has one vCPU: leave --vcpus out");
        }
        if self.command_line.is_some() {
            bail!("a simulated guest has no command line: write its options as key=value");
        }
        if !self.devices.is_empty() {
            bail!(
                "a simulated guest has no devices: leave --net, --disk, --rng, --balloon and --console out"
            );
        }
        let workload = sim_workload(&self.words)?;
        check_memory_is_free(self.memory_bytes)?;
        let vm =
            SimVm::boot(name, self.memory_bytes / PAGE_SIZE as u64, workload).context("simulate a guest")?;
        let machine = Machine::Simulated(Box::new(vm));
        let mut console = console;
        console.write_all(GREETING).context("write to the guest's console")?;
        machine.handles().set_console_output(console);
        let facts =
            Facts { kind: engine::sim::KIND.to_owned(), image: Some("sim".to_owned()), ..self.facts() };
        Ok((machine, facts))
    }

    fn facts(&self) -> Facts {
        Facts { memory_bytes: self.memory_bytes, vcpus: self.vcpus, ..Facts::default() }
    }

    #[cfg(not(feature = "kvm"))]
    fn boot_kvm(&self, _: &str, _: Box<dyn Write + Send>) -> anyhow::Result<(Machine, Facts)> {
        bail!("this ferry was built without KVM and runs only simulated guests: try `ferry run sim`")
    }

    #[cfg(feature = "kvm")]
    fn boot_kvm(&self, name: &str, console: Box<dyn Write + Send>) -> anyhow::Result<(Machine, Facts)> {
        use crate::{
            kvm_vm::{self, KvmVm},
            machine::GuestConsole,
        };
        let Image { name: image, kernel, initrd, command_line } = self.image()?;
        let (devices, backends) = self.devices(name)?;
        let config = vmm::VmConfig {
            memory_bytes: self.memory_bytes,
            vcpus: self.vcpus,
            backing: self.backing.into(),
            devices,
        };
        let cpu = vmm::CpuModel::host()?;
        let mut vm = KvmVm::new(name, &config, &cpu, backends)?;
        // The folder that a kernel was in means nothing elsewhere.
        vm.set_image(file_name(&image));
        // Before the guest's first instruction, so that none of its words is lost.
        GuestConsole::of(vm.machine()).set_output(console);
        vm.machine_mut().boot(&kernel, &command_line, initrd.as_deref()).context(format!("boot {image}"))?;
        vm.machine_mut().start();
        // Only pulse says when it is up.
        let is_booting = image == "pulse";
        let facts = Facts {
            kind: kvm_vm::KIND.to_owned(),
            image: Some(image),
            command_line: Some(command_line),
            is_booting,
            ..self.facts()
        };
        Ok((Machine::Kvm(Box::new(vm)), facts))
    }

    /// Its virtio devices, and what they need of this host.
    #[cfg(feature = "kvm")]
    fn devices(&self, name: &str) -> anyhow::Result<(Vec<vmm::DeviceConfig>, Vec<vmm::Backend>)> {
        let (mut devices, mut backends) = (Vec::new(), Vec::new());
        for (number, net) in self.devices.nets.iter().enumerate() {
            let mac = match &net.mac {
                Some(typed) => typed.parse()?,
                None => super::devices::mac_of(name, number),
            };
            devices.push(vmm::DeviceConfig::Net { mac });
            backends.push(vmm::Backend::Net(vmm::Tap::open(&net.tap)?));
        }
        for argument in &self.devices.disks {
            let disk = vmm::Disk::new(&argument.path, argument.read_only)?;
            devices.push(vmm::DeviceConfig::Block { read_only: argument.read_only, bytes: disk.bytes() });
            backends.push(vmm::Backend::Disk(disk));
        }
        if self.devices.console == ConsoleKind::Virtio {
            devices.push(vmm::DeviceConfig::Console);
            backends.push(vmm::Backend::Console);
        }
        if self.devices.balloon {
            devices.push(vmm::DeviceConfig::Balloon);
            backends.push(vmm::Backend::Balloon);
        }
        if self.devices.rng {
            devices.push(vmm::DeviceConfig::Rng);
            backends.push(vmm::Backend::Rng);
        }
        Ok((devices, backends))
    }

    /// What is booted.
    #[cfg(feature = "kvm")]
    fn image(&self) -> anyhow::Result<Image> {
        if let Some(path) = &self.kernel {
            let default = || linux_command_line(self.devices.console).to_owned();
            let command_line = self.command_line.clone().unwrap_or_else(default);
            let initrd = self.initrd.as_ref().map(|path| read(path)).transpose()?;
            return Ok(Image { name: path.display().to_string(), kernel: read(path)?, initrd, command_line });
        }
        let words = self.words.iter().map(String::as_str);
        let words = words.chain(self.command_line.iter().flat_map(|line| line.split_whitespace()));
        if self.image.as_deref() == Some("linux") {
            let (kernel, initrd) = super::linux::files()?;
            let command_line = super::linux::command_line(self.devices.console, words);
            let (kernel, initrd) = (read(&kernel)?, Some(read(&initrd)?));
            return Ok(Image { name: "linux".to_owned(), kernel, initrd, command_line });
        }
        if self.devices.console != ConsoleKind::Serial {
            bail!("pulse writes to the serial port and knows no other console: leave --console out");
        }
        let words: Vec<String> = words.map(ToOwned::to_owned).collect();
        let command_line = crate::machine::pulse_command_line(&words, self.vcpus)?;
        let kernel = guest_images::pulse::IMAGE.to_vec();
        Ok(Image { name: "pulse".to_owned(), kernel, initrd: None, command_line })
    }
}

/// A kernel and what it is given.
#[cfg(feature = "kvm")]
struct Image {
    /// What the user calls it.
    name: String,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
    command_line: String,
}

#[cfg(feature = "kvm")]
fn file_name(image: &str) -> Option<String> {
    std::path::Path::new(image).file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(feature = "kvm")]
fn read(path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A simulated guest's workload from `key=value` words.
fn sim_workload(words: &[String]) -> anyhow::Result<SimWorkload> {
    let mut workload =
        SimWorkload { seed: 1, working_set: 16384, rate: Some(10_000.0), zero_one_in: 0, network: false };
    for word in words {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("{word:?} is no option of sim: write key=value, as in rate=1000"))?;
        let number = || value.parse::<u64>().with_context(|| format!("sim's {key}={value}: write a number"));
        match key {
            "seed" => workload.seed = number()?,
            "rate" | "dirty-rate" => workload.rate = Some(number()? as f64),
            "zero-one-in" => workload.zero_one_in = number()?,
            "working-set" => {
                let bytes = super::units::memory(value).map_err(anyhow::Error::msg)?;
                workload.working_set = bytes / PAGE_SIZE as u64;
            }
            _ => bail!("sim has no option {key:?}; it has seed, rate, working-set, zero-one-in"),
        }
    }
    Ok(workload)
}

/// Simulated memory is real memory: filling more than there is would have the kernel kill something.
fn check_memory_is_free(asked: u64) -> anyhow::Result<()> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if let Some(available) = kibibytes.map(|k| k * 1024)
        && available < asked
    {
        bail!(
            "the guest wants {} of memory, and this host has {} available: ask for less with --memory",
            show_bytes(asked),
            show_bytes(available)
        );
    }
    Ok(())
}
