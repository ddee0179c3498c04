//! Runs reduced to rows: one for each arm, with medians and spreads. Nothing is shown that is not here.

use migrator::strategy::Strategy;

use crate::{
    plan::Workload,
    results::{Results, Run, RunOutcome},
    statistics::Spread,
    units,
};

/// All arms of a results file.
#[derive(Debug)]
pub struct Summary<'a> {
    /// In the order in which they were measured first.
    pub rows: Vec<Row<'a>>,
    /// Guests were simulated, for this reason.
    pub simulated: Option<&'a str>,
    /// All that was planned is in it.
    pub complete: bool,
}

/// One arm.
#[derive(Debug)]
pub struct Row<'a> {
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

impl<'a> Summary<'a> {
    /// Of these results.
    pub fn of(results: &'a Results) -> Summary<'a> {
        let mut rows: Vec<Row<'a>> = Vec::new();
        for run in &results.runs {
            let known =
                rows.iter_mut().find(|row| (row.strategy, row.workload) == (run.strategy, run.workload));
            match known {
                Some(row) => row.runs.push(run),
                None => rows.push(Row { strategy: run.strategy, workload: run.workload, runs: vec![run] }),
            }
        }
        let simulated = results.host.simulated_because.as_deref();
        Summary { rows, simulated, complete: results.complete }
    }

    /// Rows of the same guest, together.
    pub fn groups(&self) -> Vec<(Workload, Vec<&Row<'a>>)> {
        let mut groups: Vec<(Workload, Vec<&Row<'a>>)> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|(workload, _)| *workload == row.workload) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((row.workload, vec![row])),
            }
        }
        groups
    }

    /// How many runs were made under load from others.
    pub fn overloaded(&self) -> usize {
        self.rows.iter().flat_map(|row| &row.runs).filter(|run| run.host_overloaded).count()
    }

    /// What a plain TCP sender and receiver moved in a second, over all passes.
    pub fn limit(&self) -> Option<Spread> {
        let runs = self.rows.iter().flat_map(|row| &row.runs);
        Spread::of(runs.filter_map(|run| run.limit_bytes_per_second))
    }

    /// What differs between the guests, for a column of that; nothing if there is one guest only.
    pub fn name_of(&self, workload: &Workload) -> Option<String> {
        let differs =
            |of: &dyn Fn(&Workload) -> u64| self.rows.iter().any(|row| of(&row.workload) != of(workload));
        let mut words = Vec::new();
        if differs(&|w| w.memory_bytes) {
            words.push(units::bytes(workload.memory_bytes));
        }
        if differs(&|w| w.fill as u64) {
            words.push(workload.fill.name().to_owned());
        }
        if differs(&|w| w.dirty_rate_pages_per_second) {
            words.push(format!("{}/s", units::count(workload.dirty_rate_pages_per_second)));
        }
        if differs(&|w| w.working_set_bytes) {
            words.push(format!("in {}", units::bytes(workload.working_set_bytes)));
        }
        if differs(&|w| u64::from(w.vcpus)) {
            words.push(format!("{} vCPU", workload.vcpus));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// A guest in words.
pub fn describe(workload: &Workload) -> String {
    let rate = match workload.dirty_rate_pages_per_second {
        0 => "writing nothing".to_owned(),
        rate => {
            format!("writing {} pages/s in {}", units::count(rate), units::bytes(workload.working_set_bytes))
        }
    };
    let vcpus = if workload.vcpus == 1 { "1 vCPU".to_owned() } else { format!("{} vCPUs", workload.vcpus) };
    format!("{} of {} memory, {vcpus}, {rate}", units::bytes(workload.memory_bytes), workload.fill.name())
}

impl<'a> Row<'a> {
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
        self.spread(|run| run.downtime_engine_us)
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
        self.spread(|run| Some(run.bytes_sent))
    }

    /// Rounds while the guest ran at the source.
    pub fn rounds(&self) -> Option<Spread> {
        self.spread(|run| Some(run.rounds.len() as u64))
    }

    /// How long pages were missing after the start.
    pub fn push(&self) -> Option<Spread> {
        self.spread(|run| Some(run.push?.duration_us))
    }

    /// Page faults: how many, and how long half of them and all but a hundredth took.
    pub fn faults(&self) -> Option<(Spread, Spread, Spread)> {
        let count = self.spread(|run| Some(run.page_faults.count)).filter(|count| count.max > 0)?;
        let p50 = self.spread(|run| Some(run.page_faults.p50_us))?;
        let p99 = self.spread(|run| Some(run.page_faults.p99_us))?;
        Some((count, p50, p99))
    }

    /// The longest other gap that the guest saw.
    pub fn longest_stall(&self) -> Option<Spread> {
        self.spread(|run| run.longest_stall_us)
    }

    /// Guest memory moved a second, zero pages included, in hundredths of what plain TCP moved in the same pass.
    pub fn percent_of_limit(&self) -> Option<Spread> {
        self.spread(|run| {
            let speed = run.pages_sent as f64 * 4096.0 / (run.moving_us()?.max(1) as f64 / 1e6);
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
        let downtime = |run: &Run| run.downtime_guest_us.or(run.downtime_engine_us);
        let median = Spread::of(self.measured().filter_map(downtime))?.median;
        self.measured().find(|run| downtime(run) == Some(median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_grouped_into_arms() {
        let results = crate::report::fixture();
        let summary = Summary::of(&results);
        let names: Vec<&str> = summary.rows.iter().map(|row| row.strategy.name()).collect();
        assert_eq!(names, ["stop-and-copy", "pre-copy", "post-copy"]);
        assert!(summary.rows.iter().all(|row| row.runs.len() == 3 && row.verified() == Verified::All));
        assert_eq!(summary.groups().len(), 1);
        assert_eq!(summary.name_of(&summary.rows[0].workload), None);
        let pre_copy = &summary.rows[1];
        assert_eq!(
            pre_copy.median_run().unwrap().downtime_guest_us,
            Some(pre_copy.downtime().unwrap().median)
        );
    }

    #[test]
    fn a_failed_run_has_no_figures_and_is_counted() {
        let mut results = crate::report::fixture();
        results.runs[0].outcome = RunOutcome::Failed;
        results.runs[0].verified = None;
        results.runs[0].error = Some("the link broke".to_owned());
        results.runs[1].verified = Some(false);
        let summary = Summary::of(&results);
        assert_eq!((summary.rows[0].failed(), summary.rows[0].measured().count()), (1, 2));
        assert_eq!(summary.rows[0].problem(), Some("the link broke"));
        assert_eq!(summary.rows[1].verified(), Verified::Wrong(1));
        assert!(results.any_failed());
    }
}
