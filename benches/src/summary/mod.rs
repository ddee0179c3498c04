//! Runs reduced to rows: one for each arm, with medians and spreads. Nothing is shown that is not here.

mod client;
mod row;

pub use client::{Client, Sums};
pub use row::{Row, Verified};

use crate::{
    plan::{Idle, Workload},
    results::Results,
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

impl<'a> Summary<'a> {
    /// Of these results.
    pub fn of(results: &'a Results) -> Summary<'a> {
        let mut rows: Vec<Row<'a>> = Vec::new();
        for run in &results.runs {
            let (engine, strategy, workload) = (&run.engine, run.strategy, run.workload);
            let is_its =
                |row: &&mut Row<'_>| (row.engine, row.strategy, row.workload) == (engine, strategy, workload);
            match rows.iter_mut().find(is_its) {
                Some(row) => row.runs.push(run),
                None => rows.push(Row { engine, strategy, workload, runs: vec![run] }),
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

    /// Those of other engines.
    pub fn peers(&self) -> Vec<&Row<'a>> {
        self.rows.iter().filter(|row| !row.is_ours()).collect()
    }

    /// Ferry's median by a measure, divided by that of another engine's row of the same guest and strategy: below 1,
    /// Ferry's is less.
    pub fn ratio(&self, peer: &Row<'a>, of: impl Fn(&Row<'a>) -> Option<Spread>) -> Option<f64> {
        let is_beside =
            |row: &&Row<'a>| row.is_ours() && (row.strategy, row.workload) == (peer.strategy, peer.workload);
        let ours = of(self.rows.iter().find(is_beside)?)?.median;
        let theirs = of(peer)?.median;
        (theirs > 0).then(|| ours as f64 / theirs as f64)
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
        if differs(&|w| w.idle as u64) {
            words.push(format!("{}s when idle", workload.idle.name()));
        }
        if differs(&|w| w.link.map_or(0, u64::from)) {
            words.push(workload.link.map_or_else(|| "no limit".to_owned(), |link| link.to_string()));
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
    let idle = if workload.idle == Idle::Halt { ", halting when idle" } else { "" };
    let link = workload.link.map(|link| format!(", over a link of {link}/s")).unwrap_or_default();
    format!(
        "{} of {} memory, {vcpus}{idle}, {rate}{link}",
        units::bytes(workload.memory_bytes),
        workload.fill.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::RunOutcome;

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
