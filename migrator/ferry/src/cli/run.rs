//! `ferry run`

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;

use super::{
    background::Background, boot::Guest, devices::Devices, ending, output::tell, raw_terminal, terminal,
    units,
};
use crate::{
    daemon::{ConsoleLog, Daemon, Registry, serve},
    machine::Backing,
};

/// Run a guest in this process
///
/// Its console is on this terminal; Ctrl-] leaves it and stops the guest. From elsewhere it is reached by its name.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// A guest of Ferry's own: pulse, which proves its own memory, linux, or sim, which needs no KVM
    #[arg(value_name = "GUEST", required_unless_present = "kernel", conflicts_with = "kernel")]
    image: Option<String>,
    /// Options of a built-in guest, as in working-set=64MiB rate=10000
    #[arg(value_name = "KEY=VALUE", conflicts_with = "kernel")]
    words: Vec<String>,
    /// Boot this kernel instead: a Linux kernel (vmlinuz or vmlinux), or an ELF file with a PVH entry point
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Command line for the kernel [default for --kernel: "console=ttyS0 panic=-1", with
    /// --console virtio "console=hvc0 panic=-1"]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
    /// The name to go by [default: the guest's, then pulse-2 …]
    #[arg(long, short)]
    name: Option<String>,
    /// Memory, as in 512MiB or 4GiB
    #[arg(long, short, default_value = "512MiB", value_parser = units::memory)]
    memory: u64,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    vcpus: u8,
    /// What holds its memory
    #[arg(long, value_enum, default_value_t)]
    backing: Backing,
    #[command(flatten)]
    devices: Devices,
    /// Run in the background; prints the name
    #[arg(long, short)]
    detach: bool,
    /// Leave the terminal alone
    #[arg(long)]
    no_console: bool,
    #[command(flatten)]
    background: Background,
}

const EXAMPLES: &str = "\
Examples:
  ferry run pulse
  ferry run pulse working-set=64MiB rate=10000 --memory 1GiB --vcpus 2
  ferry run pulse --detach --name db
  ferry run pulse net=10.0.0.2/24 --net tap=ferry0
  ferry run linux net=10.0.0.3/24 --net tap=ferry0 --memory 128MiB
  ferry run sim
  ferry run --kernel vmlinuz --initrd initrd
  ferry run --kernel vmlinuz --initrd initrd --cmdline 'console=ttyS0 panic=-1 quiet'

Options of pulse: fill=random|zeros|text, fill-bytes=SIZE, working-set=SIZE, rate=PAGES|max,
pattern=random|sequential|hot-cold, idle=spin|halt, seed=N, check=SECONDS, net=ADDRESS/PREFIX[,gw=ADDRESS].
Options of linux: net=ADDRESS/PREFIX[,gw=ADDRESS], working-set=SIZE, rate=PAGES|max, threads=N and pattern=… for the
program that stamps its memory, and whatever its kernel understands.

Exit code: 0 after the guest powered off, 3 after it asked for a reset (a reboot ends it here; so does a panic with
panic=-1), 4 after its kernel said that it panicked, 1 after a triple fault or another failure; a built-in guest's own.";

impl Run {
    /// Runs the guest to its end.
    pub fn execute(self, arguments: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
        raw_terminal::never_stop_for_it();
        self.background.begin();
        let registry = Registry::open()?;
        if self.detach && !self.background.is_in_background() {
            return super::background::start(&registry, arguments);
        }
        let guest = Guest {
            image: self.image,
            kernel: self.kernel,
            initrd: self.initrd,
            command_line: self.cmdline,
            words: self.words,
            memory_bytes: self.memory,
            vcpus: self.vcpus,
            backing: self.backing,
            devices: self.devices,
        };
        let claim = match &self.name {
            Some(name) => registry.claim(name)?,
            None => registry.claim_numbered(&guest.default_name())?,
        };
        let name = claim.name().to_owned();
        let console = Arc::<ConsoleLog>::default();
        let (machine, facts) = guest.boot(&name, Box::new(console.writer()))?;
        let daemon = Daemon::with_machine(&name, machine, facts, console);
        self.background.ready(&registry, &name);
        if !self.background.is_in_background() {
            tell!("{name} runs here.");
        }
        let attached = (!self.no_console && !self.background.is_in_background())
            .then(|| terminal::attach_own(&registry.console(&name), &daemon))
            .transpose()?;
        let end = serve(&daemon, claim, false)?;
        drop(attached);
        Ok(ending::tell(&daemon.name(), &end))
    }
}
