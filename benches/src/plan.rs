//! What is measured, and in which order.

use migrator::strategy::Strategy;
use serde::{Deserialize, Serialize};

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

/// The guest that is moved, and what it does meanwhile.
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
}

/// One way to move one kind of guest: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm {
    /// How.
    pub strategy: Strategy,
    /// What.
    pub workload: Workload,
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
#[derive(Clone, Debug)]
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
}

impl Choices {
    /// All kinds of guests.
    pub fn workloads(&self) -> Vec<Workload> {
        let mut workloads = Vec::new();
        for &vcpus in &self.vcpus {
            for &fill in &self.fills {
                for &memory_bytes in &self.memory {
                    for &working_set_bytes in &self.working_sets {
                        for &dirty_rate_pages_per_second in &self.dirty_rates {
                            workloads.push(Workload {
                                memory_bytes,
                                dirty_rate_pages_per_second,
                                working_set_bytes,
                                fill,
                                vcpus,
                            });
                        }
                    }
                }
            }
        }
        workloads
    }

    /// All arms: the strategies of one kind of guest beside each other.
    pub fn arms(&self) -> Vec<Arm> {
        let arms = |workload| self.strategies.iter().map(move |&strategy| Arm { strategy, workload });
        self.workloads().into_iter().flat_map(arms).collect()
    }

    /// All runs. Arms take turns (A B C A B C): what drifts on the host then drifts for all of them.
    pub fn steps(&self, runs: u32) -> Vec<Step> {
        let arms = self.arms();
        (1..=runs).flat_map(|pass| arms.iter().map(move |&arm| Step { arm, pass })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_take_turns_and_lists_multiply() {
        let choices = Choices {
            strategies: Strategy::ALL.to_vec(),
            memory: vec![1 << 28, 1 << 30],
            dirty_rates: vec![0, 10_000],
            working_sets: vec![64 << 20],
            fills: vec![Fill::Random],
            vcpus: vec![1],
        };
        let steps = choices.steps(2);
        assert_eq!(steps.len(), 3 * 2 * 2 * 2);
        assert_eq!(steps[0].arm, steps[12].arm);
        assert_eq!((steps[0].pass, steps[12].pass), (1, 2));
        let strategies: Vec<Strategy> = steps[..3].iter().map(|step| step.arm.strategy).collect();
        assert_eq!(strategies, Strategy::ALL);
        assert_eq!(steps[0].arm.workload, steps[2].arm.workload);
    }
}
