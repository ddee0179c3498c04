//! One arm: its runs, and what they came to.

use engine::strategy::Strategy;

use crate::{
    plan::Workload,
    results::{Engine, Run, RunOutcome},
    statistics::Spread,
};

/// One arm.
#[derive(Debug)]
pub struct Row<'a> {
    /// By which engine, in which of its settings.
    pub engine: &'a Engine,
    /// How.
    pub strategy: Strategy,
    /// What.
    pub workload: Workload,
    /// All of its runs.
    pub runs: Vec<&'a Run>,
}

/// What the digests and the guest's own check said of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Right in every run.
    All,
    /// Wrong in so many.
    Wrong(usize),
    /// There is a run of which nothing is known.
    NotAll,
}

impl<'a> Row<'a> {
    /// Its name in tables and pictures: the strategy, and the engine if it is another's.
    pub fn label(&self) -> String {
        self.engine.label(self.strategy)
    }

    /// Ferry moved it.
    pub fn is_ours(&self) -> bool {
        self.engine.is_ferry()
    }

    /// The runs whose figures count.
    pub fn measured(&self) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().copied().filter(|run| run.is_measured())
    }

    fn spread(&self, of: impl Fn(&Run) -> Option<u64>) -> Option<Spread> {
        Spread::of(self.measured().filter_map(of))
    }

    /// Downtime by the guest's clock.
    pub fn downtime_guest(&self) -> Option<Spread> {
        self.spread(|run| run.downtime_guest_us)
    }

    /// Downtime by the engine's.
    pub fn downtime_engine(&self) -> Option<Spread> {
        self.spread(|run| run.moved.downtime_engine_us)
    }

    /// Downtime by an outside client's.
    pub fn downtime_client(&self) -> Option<Spread> {
        self.spread(|run| run.client.as_ref()?.downtime_client_us)
    }

    /// Downtime by the guest's clock, or by the engine's where the guest has none.
    pub fn downtime(&self) -> Option<Spread> {
        self.downtime_guest().or_else(|| self.downtime_engine())
    }

    /// From the command to the source being free of duty.
    pub fn total(&self) -> Option<Spread> {
        self.spread(|run| run.total_us)
    }

    /// Bytes on the links.
    pub fn bytes(&self) -> Option<Spread> {
        self.spread(|run| run.moved.bytes_sent)
    }

    /// Rounds while the guest ran at the source.
    pub fn rounds(&self) -> Option<Spread> {
        self.spread(|run| Some(run.moved.rounds.as_ref()?.len() as u64))
    }

    /// How long pages were missing after the start.
    pub fn push(&self) -> Option<Spread> {
        self.spread(|run| Some(run.moved.push?.duration_us))
    }

    /// Page faults: how many, and how long half of them and all but a hundredth took.
    pub fn faults(&self) -> Option<(Spread, Spread, Spread)> {
        let count = self.spread(|run| run.page_faults.count).filter(|count| count.max > 0)?;
        let p50 = self.spread(|run| run.page_faults.p50_us)?;
        let p99 = self.spread(|run| run.page_faults.p99_us)?;
        Some((count, p50, p99))
    }

    /// Blocktime: how long missing pages were waited for in all.
    pub fn blocktime(&self) -> Option<Spread> {
        self.spread(|run| run.page_faults.blocktime_us)
    }

    /// The longest other gap that the guest saw.
    pub fn longest_stall(&self) -> Option<Spread> {
        self.spread(|run| run.longest_stall_us)
    }

    /// Guest memory moved a second, zero pages included, in hundredths of what plain TCP moved in the same pass.
    pub fn percent_of_limit(&self) -> Option<Spread> {
        self.spread(|run| {
            let speed = run.moved.pages_sent? as f64 * 4096.0 / (run.moving_us()?.max(1) as f64 / 1e6);
            Some((speed * 100.0 / run.limit_bytes_per_second? as f64).round() as u64)
        })
    }

    /// Whether memory was right.
    pub fn verified(&self) -> Verified {
        let wrong = self.runs.iter().filter(|run| run.verified == Some(false)).count();
        match wrong {
            0 if self.measured().count() > 0 && self.measured().all(|run| run.verified == Some(true)) => {
                Verified::All
            }
            0 => Verified::NotAll,
            wrong => Verified::Wrong(wrong),
        }
    }

    /// Runs that did not do what they were to do.
    pub fn failed(&self) -> usize {
        self.runs.iter().filter(|run| run.is_failure()).count()
    }

    /// Why there are no figures, or not of all runs.
    pub fn problem(&self) -> Option<&'a str> {
        self.runs.iter().find_map(|run| run.error.as_deref())
    }

    /// It was not tried.
    pub fn is_skipped(&self) -> bool {
        self.runs.iter().all(|run| run.outcome == RunOutcome::Skipped)
    }

    /// The run that stands for the arm where only one can be shown: that of the median downtime.
    pub fn median_run(&self) -> Option<&'a Run> {
        let downtime = |run: &Run| run.downtime_guest_us.or(run.moved.downtime_engine_us);
        let median = Spread::of(self.measured().filter_map(downtime))?.median;
        self.measured().find(|run| downtime(run) == Some(median))
    }
}
