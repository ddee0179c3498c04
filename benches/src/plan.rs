//! What is measured, and in which order.

use engine::strategy::Strategy;
use serde::{Deserialize, Serialize};

use crate::{network::Bandwidth, peer::Setting};

/// What the guest's memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Nothing that could be left out or compressed.
    Random,
    /// Zeros, but for the working set.
    Zeros,
    /// What compresses as text does.
    Text,
}

impl Fill {
    /// Its name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Fill::Random => "random",
            Fill::Zeros => "zeros",
            Fill::Text => "text",
        }
    }
}

/// What the guest's vCPUs do when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// They look at the clock without pause: no gap is missed, and each takes a processor.
    #[default]
    Spin,
    /// They sleep until the next tick, as most guests do: a gap seems longer by up to a tick, and others have the processor.
    Halt,
}

impl Idle {
    /// Its name on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Idle::Spin => "spin",
            Idle::Halt => "halt",
        }
    }
}

/// The guest that is moved, what it does meanwhile, and the link that it moves over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its memory.
    pub memory_bytes: u64,
    /// Pages it writes each second, over all vCPUs.
    pub dirty_rate_pages_per_second: u64,
    /// The memory those writes go to.
    pub working_set_bytes: u64,
    /// What its memory holds at first.
    pub fill: Fill,
    /// Its vCPUs.
    pub vcpus: u8,
    /// What they do when there is nothing to do.
    #[serde(default)]
    pub idle: Idle,
    /// The bandwidth of the link between source and destination; nothing if it has no limit.
    #[serde(default, rename = "link_bits_per_second", skip_serializing_if = "Option::is_none")]
    pub link: Option<Bandwidth>,
}

/// One way to move one kind of guest: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// How.
    pub strategy: Strategy,
    /// What.
    pub workload: Workload,
    /// By QEMU in this setting; by Ferry if there is none.
    pub peer: Option<Setting>,
}

impl Arm {
    /// The strategy's name, or QEMU's setting, told apart.
    pub fn name(self) -> String {
        match self.peer {
            None => self.strategy.to_string(),
            Some(setting) => format!("qemu {}", setting.name()),
        }
    }
}

/// One run to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of which arm.
    pub arm: Arm,
    /// Which pass over all arms, from 1.
    pub pass: u32,
}

/// Lists to choose from; every combination is an arm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// The strategies.
    pub strategies: Vec<Strategy>,
    /// Sizes of memory in bytes.
    pub memory: Vec<u64>,
    /// Dirty rates in pages a second.
    pub dirty_rates: Vec<u64>,
    /// Sizes of the working set in bytes.
    pub working_sets: Vec<u64>,
    /// Contents of memory.
    pub fills: Vec<Fill>,
    /// Numbers of vCPUs.
    pub vcpus: Vec<u8>,
    /// What they do when there is nothing to do.
    #[serde(default = "spinning")]
    pub idles: Vec<Idle>,
    /// Bandwidths of the link; nothing is no limit.
    pub links: Vec<Option<Bandwidth>>,
    /// Settings of QEMU's; each stands beside a strategy, and is measured only if that is.
    #[serde(default)]
    pub peers: Vec<Setting>,
}

/// What guests did before there was a choice.
fn spinning() -> Vec<Idle> {
    vec![Idle::Spin]
}

impl Choices {
    /// All kinds of guests.
    pub fn workloads(&self) -> Vec<Workload> {
        let mut workloads = Vec::new();
        let cpus = self.vcpus.iter().flat_map(|&vcpus| self.idles.iter().map(move |&idle| (vcpus, idle)));
        for &link in &self.links {
            for (vcpus, idle) in cpus.clone() {
                for &fill in &self.fills {
                    for &memory_bytes in &self.memory {
                        for &working_set_bytes in &self.working_sets {
                            workloads.extend(self.dirty_rates.iter().map(|&rate| Workload {
                                memory_bytes,
                                dirty_rate_pages_per_second: rate,
                                working_set_bytes,
                                fill,
                                vcpus,
                                idle,
                                link,
                            }));
                        }
                    }
                }
            }
        }
        workloads
    }

    /// All arms: the strategies of one kind of guest beside each other, and behind each what is to be compared with it.
    pub fn arms(&self) -> Vec<Arm> {
        let mut arms = Vec::new();
        for workload in self.workloads() {
            for &strategy in &self.strategies {
                let peers = self.peers.iter().filter(|setting| setting.strategy() == strategy);
                let engines = std::iter::once(None).chain(peers.copied().map(Some));
                arms.extend(engines.map(|peer| Arm { strategy, workload, peer }));
            }
        }
        arms
    }

    /// All runs. Arms take turns (A B C A B C): what drifts on the host then drifts for all of them. Those that are
    /// compared with each other rotate from pass to pass (A B, then B A): none always comes first.
    pub fn steps(&self, runs: u32) -> Vec<Step> {
        let mut arms = self.arms();
        let mut steps = Vec::new();
        for pass in 1..=runs {
            steps.extend(arms.iter().map(|&arm| Step { arm, pass }));
            let compared = |a: &Arm, b: &Arm| (a.strategy, a.workload) == (b.strategy, b.workload);
            arms.chunk_by_mut(compared).for_each(|arms| arms.rotate_left(1));
        }
        steps
    }
}

/// All that decides what is measured: two measurements of the same plan can be put together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The arms.
    #[serde(flatten)]
    pub choices: Choices,
    /// Runs of each.
    pub runs: u32,
    /// What pre-copy may plan for.
    pub downtime_limit_us: u64,
    /// How long frames are on the link.
    pub delay_us: u64,
    /// A client asks the guest meanwhile, where that is possible.
    pub client: bool,
}

impl Plan {
    /// All runs, in their order.
    pub fn steps(&self) -> Vec<Step> {
        self.choices.steps(self.runs)
    }

    /// The options in which another plan is not this one, as the command line names them.
    pub fn differences(&self, other: &Plan) -> Vec<&'static str> {
        let (ours, theirs) = (&self.choices, &other.choices);
        let differs = [
            ("--strategy", ours.strategies != theirs.strategies),
            ("--memory", ours.memory != theirs.memory),
            ("--dirty-rate", ours.dirty_rates != theirs.dirty_rates),
            ("--working-set", ours.working_sets != theirs.working_sets),
            ("--fill", ours.fills != theirs.fills),
            ("--vcpus", ours.vcpus != theirs.vcpus),
            ("--idle", ours.idles != theirs.idles),
            ("--link", ours.links != theirs.links),
            ("--against", ours.peers != theirs.peers),
            ("--runs", self.runs != other.runs),
            ("--downtime-limit", self.downtime_limit_us != other.downtime_limit_us),
            ("--delay", self.delay_us != other.delay_us),
            ("--no-client", self.client != other.client),
        ];
        differs.into_iter().filter_map(|(option, differs)| differs.then_some(option)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Choices {
        Choices {
            strategies: Strategy::ALL.to_vec(),
            memory: vec![1 << 28, 1 << 30],
            dirty_rates: vec![0, 10_000],
            working_sets: vec![64 << 20],
            fills: vec![Fill::Random],
            vcpus: vec![1],
            idles: vec![Idle::Spin],
            links: vec![None],
            peers: Vec::new(),
        }
    }

    #[test]
    fn a_plan_survives_the_round_trip_and_says_where_another_differs() {
        let plan = Plan { choices: choices(), runs: 5, downtime_limit_us: 50_000, delay_us: 0, client: true };
        let text = serde_json::to_string(&plan).unwrap();
        let mut other: Plan = serde_json::from_str(&text).unwrap();
        assert!(other == plan && plan.differences(&other).is_empty());
        other.choices.links = vec![Some("1Gbit".parse().unwrap()), None];
        other.runs = 6;
        assert_eq!(plan.differences(&other), ["--link", "--runs"]);
        let other: Plan = serde_json::from_str(&serde_json::to_string(&other).unwrap()).unwrap();
        assert_eq!(other.choices.links.len(), 2);
        assert_eq!(other.steps().len(), 2 * plan.choices.arms().len() * 6);
    }

    #[test]
    fn a_plan_from_before_guests_could_sleep_is_one_of_guests_that_spin() {
        let plan = Plan { choices: choices(), runs: 5, downtime_limit_us: 50_000, delay_us: 0, client: true };
        let mut old = serde_json::to_value(&plan).unwrap();
        old.as_object_mut().unwrap().remove("idles").unwrap();
        assert_eq!(serde_json::from_value::<Plan>(old).unwrap(), plan);
        let mut sleepers = plan.clone();
        sleepers.choices.idles = vec![Idle::Spin, Idle::Halt];
        assert_eq!(plan.differences(&sleepers), ["--idle"]);
        assert_eq!(sleepers.choices.arms().len(), 2 * plan.choices.arms().len());
    }

    #[test]
    fn arms_take_turns_and_lists_multiply() {
        let steps = choices().steps(2);
        assert_eq!(steps.len(), 4 * 2 * 2 * 2);
        assert_eq!(steps[0].arm, steps[16].arm);
        assert_eq!((steps[0].pass, steps[16].pass), (1, 2));
        let strategies: Vec<Strategy> = steps[..4].iter().map(|step| step.arm.strategy).collect();
        assert_eq!(strategies, Strategy::ALL);
        assert_eq!(steps[0].arm.workload, steps[3].arm.workload);
    }

    #[test]
    fn entry_28_engines_rotate_from_pass_to_pass() {
        let choices = Choices {
            strategies: vec![Strategy::PostCopy, Strategy::StopAndCopy],
            memory: vec![1 << 28],
            dirty_rates: vec![0],
            peers: Setting::ALL.to_vec(),
            ..choices()
        };
        let steps = choices.steps(3);
        let in_pass = |pass| {
            let made = steps.iter().filter(move |step| step.pass == pass);
            made.map(|step| step.arm.peer).collect::<Vec<_>>()
        };
        let (post, preempt) = (Some(Setting::PostCopy), Some(Setting::PostCopyPreempt));
        let stop = Some(Setting::StopAndCopy);
        assert_eq!(in_pass(1), [None, post, preempt, None, stop]);
        assert_eq!(in_pass(2), [post, preempt, None, stop, None]);
        assert_eq!(in_pass(3), [preempt, None, post, None, stop]);
        assert_eq!(steps, choices.steps(3), "the same each time: --resume relies on it");
    }

    #[test]
    fn a_peers_settings_stand_behind_their_strategy_and_only_if_it_is_measured() {
        let choices = Choices {
            strategies: vec![Strategy::PostCopy, Strategy::StopAndCopy],
            memory: vec![1 << 28],
            dirty_rates: vec![0],
            peers: Setting::ALL.to_vec(),
            ..choices()
        };
        let arms: Vec<_> = choices.arms().into_iter().map(|arm| (arm.strategy, arm.peer)).collect();
        let expected = [
            (Strategy::PostCopy, None),
            (Strategy::PostCopy, Some(Setting::PostCopy)),
            (Strategy::PostCopy, Some(Setting::PostCopyPreempt)),
            (Strategy::StopAndCopy, None),
            (Strategy::StopAndCopy, Some(Setting::StopAndCopy)),
        ];
        assert_eq!(arms, expected);
    }
}
