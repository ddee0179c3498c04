//! Emulated Linux hosts by hand: boots them, gives a shell on each, or runs a scenario in them.

mod scenario;
mod shell;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use testbed::{Bed, BedConfig, HostConfig, Link, walk::WALK};

/// Linux hosts with KVM, emulated by QEMU: with `ferry` on each, a network between them, and no rights needed
///
/// Builds ferry as a static program (FERRY_BIN names one to use instead), and downloads Debian's kernel, busybox
/// and curl where they are not installed (to $XDG_CACHE_HOME/ferry/debian, nothing is installed).
#[derive(Parser)]
#[command(name = "hosts", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hosts up                                  two hosts and a client; leave with Ctrl-C
  hosts up --link 'delay=20ms rate=100mbit'
  hosts shell host-1                        in another terminal; Ctrl-] leaves it
  hosts run tests/testbed/scenarios/pulse.txt       boots, runs the commands, and ends";

#[derive(Subcommand)]
enum Command {
    /// Boot hosts and wait for Ctrl-C
    Up(BedArguments),
    /// Boot hosts, run the commands of a file in them, and end with the status of the first that failed
    Run {
        /// Lines as in `host-1: ferry doctor`
        #[arg(value_name = "FILE")]
        scenario: PathBuf,
        #[command(flatten)]
        bed: BedArguments,
        /// Where to leave what the consoles have shown
        #[arg(long, value_name = "FOLDER")]
        logs: Option<PathBuf>,
    },
    /// Download and build what hosts are made of, and boot none
    Prepare,
    /// A shell on a host of `hosts up`
    Shell {
        /// host-1, host-2, … or client
        #[arg(default_value = "host-1")]
        host: String,
    },
}

#[derive(Args)]
struct BedArguments {
    /// How many hosts that run guests
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    hosts: u8,
    /// No third host to look on from
    #[arg(long)]
    no_client: bool,
    /// Memory of each host, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// Their CPU, as QEMU's -cpu has it
    #[arg(long, default_value = "max,+svm,-xsave")]
    cpu: String,
    /// What the links between them are like, as in 'delay=20ms rate=100mbit loss=1%'
    #[arg(long, default_value = "")]
    link: String,
}

impl BedArguments {
    fn up(&self) -> anyhow::Result<Bed> {
        let link: Link = self.link.parse()?;
        let host =
            HostConfig { memory_bytes: self.memory << 20, cpu: self.cpu.clone(), ..HostConfig::with_kvm() };
        let hosts = vec![host; usize::from(self.hosts)];
        let begin = Instant::now();
        let bed =
            Bed::up(&BedConfig { hosts, has_client: !self.no_client, ..BedConfig::with_linux_guest() })?;
        if !self.link.is_empty() {
            bed.link(&link)?;
        }
        let names: Vec<_> =
            bed.hosts().iter().map(|host| format!("{} ({})", host.name(), host.address())).collect();
        eprintln!("up after {:.1} s: {}", begin.elapsed().as_secs_f64(), names.join(", "));
        Ok(bed)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Up(arguments) => {
            let bed = arguments.up()?;
            eprintln!("\nA shell on each, in other terminals:");
            for host in bed.hosts() {
                eprintln!("  cargo run -p testbed --bin hosts -- shell {}", host.name());
            }
            print_walk();
            eprintln!("\nCtrl-C here ends them all.");
            wait_for_interrupt()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { scenario, bed, logs } => {
            let text =
                std::fs::read_to_string(&scenario).with_context(|| format!("read {}", scenario.display()))?;
            let steps = scenario::parse(&text)?;
            let bed = bed.up()?;
            let code = scenario::run(&bed, &steps)?;
            if let Some(folder) = logs {
                std::fs::create_dir_all(&folder)?;
                for host in bed.hosts() {
                    std::fs::write(folder.join(format!("{}.log", host.name())), host.console_log())?;
                }
            }
            Ok(code)
        }
        Command::Prepare => {
            Bed::prepare()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Shell { host } => shell::attach(&host),
    }
}

/// What to do with them, for whoever does not know yet.
fn print_walk() {
    eprintln!(
        "\nA Linux guest that moves while a client asks it (it first answers up to 20 s after its power-on):"
    );
    for (host, command) in WALK {
        eprintln!("  {host}# {command}");
    }
    eprintln!(
        "All three hosts have curl. `ferry balloon linux 48MiB` has the guest give memory up before it moves on."
    );
    eprintln!("The hosts that run guests have the same disk, /dev/vda: mke2fs /dev/vda on one, then");
    eprintln!("--disk path=/dev/vda for run and for receive.");
}

/// Until Ctrl-C, or until somebody asks this process to end.
fn wait_for_interrupt() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
