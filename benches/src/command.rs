//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};
use engine::strategy::Strategy;

use crate::{
    network::Bandwidth,
    plan::{Choices, Fill, Idle, Plan},
    units::{parse_bytes, parse_duration},
};

/// What the migration of a virtual machine costs the people who use it.
///
/// Without a command, `compare` runs with its defaults.
#[derive(Debug, Parser)]
#[command(name = "ferry-bench", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `compare`, where no command is given.
    #[command(flatten)]
    pub compare: Compare,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move the same guest by each strategy, and show downtime, total time and what was sent.
    Compare(Compare),
    /// Measure every combination several times, and show curves: downtime and total time against what was varied.
    Sweep(Sweep),
    /// Make the report anew from a results file.
    Report(Render),
}

/// Options of `compare`. Where a list is allowed, its items are separated by commas, and every
/// combination is measured.
#[derive(Args, Clone, Debug)]
pub struct Compare {
    /// Strategies: stop-and-copy, pre-copy, post-copy, hybrid, or all.
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "NAME,…")]
    pub strategy: Vec<StrategyChoice>,
    /// The guest's memory.
    #[arg(long, value_delimiter = ',', default_value = "512MiB", value_parser = parse_memory, value_name = "SIZE,…")]
    pub memory: Vec<u64>,
    /// Pages that the guest writes each second.
    #[arg(long, value_delimiter = ',', default_value = "10000", value_name = "PAGES,…")]
    pub dirty_rate: Vec<u64>,
    /// The memory that it writes them to.
    #[arg(long, value_delimiter = ',', default_value = "64MiB", value_parser = parse_bytes, value_name = "SIZE,…")]
    pub working_set: Vec<u64>,
    /// What its memory holds at first.
    #[arg(long, value_delimiter = ',', default_value = "random", value_name = "FILL,…")]
    pub fill: Vec<Fill>,
    /// Its vCPUs.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16), value_name = "N,…")]
    pub vcpus: Vec<u8>,
    /// What they do when there is nothing to do: spin sees every gap; halt sleeps until the next tick, as most guests do,
    /// and leaves the processor to others, the engine's threads among them.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "spin",
        value_name = "spin|halt,…",
        hide_possible_values = true
    )]
    pub idle: Vec<Idle>,
    /// How often each combination is measured.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub runs: u32,
    /// The downtime that pre-copy may plan for.
    #[arg(long, default_value = "50ms", value_parser = parse_duration, value_name = "TIME")]
    pub downtime_limit: Duration,
    /// The bandwidth of the link between source and destination, each way, or none for no limit. Takes a network of
    /// namespaces: root, or a kernel that permits user namespaces.
    #[arg(long, value_delimiter = ',', default_value = "none", value_parser = parse_link, value_name = "100Mbit|1Gbit|none,…")]
    pub link: Vec<Link>,
    /// How long frames are on that link, each way. Takes a kernel with netem.
    #[arg(long, default_value = "0ms", value_parser = parse_duration, value_name = "TIME")]
    pub delay: Duration,
    /// Build no network and ask no client, where both are possible.
    #[arg(long)]
    pub no_client: bool,
    /// Move the same guest by another engine, too, in the same run: qemu.
    #[arg(long, value_name = "ENGINE")]
    pub against: Option<Against>,
    /// Which QEMU.
    #[arg(long, default_value = "qemu-system-x86_64", requires = "against", value_name = "PROGRAM")]
    pub qemu: PathBuf,
    /// The results file [default: results.json in the report's folder].
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The report's folder.
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
    /// Move a simulated guest, even where KVM is at hand.
    #[arg(long)]
    pub simulated: bool,
}

/// A link's bandwidth, if it is limited. (`Option` means something else to the command line.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link(pub Option<Bandwidth>);

/// Options of `sweep`: those of `compare`, with more runs and a folder of its own, and whether to go on.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("runs", |arg| arg.default_value("5")), mut_arg("out", |arg| arg.default_value("report/sweep")))]
pub struct Sweep {
    /// What to measure.
    #[command(flatten)]
    pub compare: Compare,
    /// Go on where an interrupted sweep of the same choices was; begin, if there is none.
    #[arg(long)]
    pub resume: bool,
}

/// An engine to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Against {
    /// QEMU, driven by QMP.
    Qemu,
}

/// Options of `report`.
#[derive(Args, Clone, Debug)]
pub struct Render {
    /// A results.json.
    pub file: PathBuf,
    /// The report's folder.
    #[arg(long, default_value = "report", value_name = "DIR")]
    pub out: PathBuf,
}

/// One strategy, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrategyChoice {
    /// `all`
    All,
    /// By name.
    One(Strategy),
}

impl FromStr for StrategyChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<StrategyChoice, String> {
        match name {
            "all" => Ok(StrategyChoice::All),
            _ => name.parse().map(StrategyChoice::One).map_err(|error| format!("{error}, or all")),
        }
    }
}

impl Compare {
    /// What is to be combined; nothing twice.
    pub fn choices(&self) -> Choices {
        let strategies = self.strategy.iter().flat_map(|choice| match choice {
            StrategyChoice::All => Strategy::ALL.to_vec(),
            StrategyChoice::One(strategy) => vec![*strategy],
        });
        Choices {
            strategies: once_each(strategies),
            memory: once_each(self.memory.iter().copied()),
            dirty_rates: once_each(self.dirty_rate.iter().copied()),
            working_sets: once_each(self.working_set.iter().copied()),
            fills: once_each(self.fill.iter().copied()),
            vcpus: once_each(self.vcpus.iter().copied()),
            idles: once_each(self.idle.iter().copied()),
            links: once_each(self.link.iter().map(|link| link.0)),
            peers: Vec::new(),
        }
    }

    /// All that decides what is measured.
    pub fn plan(&self, client: bool) -> Plan {
        Plan {
            choices: self.choices(),
            runs: self.runs,
            downtime_limit_us: self.downtime_limit.as_micros() as u64,
            delay_us: self.delay.as_micros() as u64,
            client,
        }
    }

    /// Where the results go.
    pub fn results_path(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| self.out.join("results.json"))
    }
}

fn once_each<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

fn parse_link(text: &str) -> Result<Link, String> {
    match text {
        "none" => Ok(Link(None)),
        _ => text.parse().map(|bandwidth| Link(Some(bandwidth))).map_err(|words| format!("{words}, or none")),
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 16 << 20;
    match parse_bytes(text)? {
        bytes if bytes < LEAST => Err("a guest has 16MiB at least".to_owned()),
        bytes if bytes % 4096 != 0 => Err("a guest has whole pages of 4KiB".to_owned()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_compare_has_its_options() {
        let cli = Cli::parse_from(["ferry-bench", "--strategy", "pre-copy,all", "--memory", "256MiB,1GiB"]);
        assert!(cli.command.is_none());
        let choices = cli.compare.choices();
        assert_eq!(choices.strategies.len(), Strategy::ALL.len());
        assert_eq!(choices.strategies[0], Strategy::PreCopy);
        assert_eq!(choices.memory, [256 << 20, 1 << 30]);
        assert_eq!(choices.steps(cli.compare.runs).len(), 2 * 3 * Strategy::ALL.len());
    }

    #[test]
    fn a_sweep_has_more_runs_and_a_folder_of_its_own() {
        let line =
            ["ferry-bench", "sweep", "--dirty-rate", "0,1000", "--link", "1Gbit,10Gbit,none", "--resume"];
        let Some(Command::Sweep(sweep)) = Cli::parse_from(line).command else { panic!("no sweep") };
        assert!(sweep.resume);
        assert_eq!((sweep.compare.runs, sweep.compare.out.to_str()), (5, Some("report/sweep")));
        assert_eq!(sweep.compare.plan(false).steps().len(), 2 * 3 * 5 * Strategy::ALL.len());
        let cli = Cli::parse_from(["ferry-bench"]);
        assert_eq!((cli.compare.runs, cli.compare.out.to_str()), (3, Some("report")));
    }

    #[test]
    fn nonsense_is_refused() {
        for arguments in [
            ["--memory", "1MiB"],
            ["--strategy", "magic"],
            ["--runs", "0"],
            ["--vcpus", "17"],
            ["--link", "fast"],
            ["--link", "10GB"],
        ] {
            let line = ["ferry-bench", "compare"].into_iter().chain(arguments);
            assert!(Cli::try_parse_from(line).is_err(), "{arguments:?}");
        }
    }
}
