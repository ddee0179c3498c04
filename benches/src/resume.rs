//! Going on where an interrupted sweep was: which results may be gone on with, and what is still to be measured.

use anyhow::{Result, bail};

use crate::{
    host::HostFacts,
    peer::Setting,
    plan::{Plan, Step},
    results::Results,
};

/// Whether runs of `plan`, made on this host and with this program, may stand beside those that are there.
///
/// # Errors
/// If not, with what differs and what to do.
pub fn check(earlier: &Results, plan: &Plan, host: &HostFacts) -> Result<()> {
    let Some(theirs) = &earlier.plan else {
        bail!(
            "it does not say what was planned, so nothing can be added to it: choose another folder with --out"
        );
    };
    let options = plan.differences(theirs);
    if !options.is_empty() {
        bail!(
            "it is of other choices: {} differ{}. It was made by `{}`; repeat that with --resume, or choose another folder with --out",
            options.join(", "),
            if options.len() == 1 { "s" } else { "" },
            earlier.host.command,
        );
    }
    let facts = differences(&earlier.host, host);
    if !facts.is_empty() {
        bail!(
            "it was measured elsewhere or otherwise ({}), and medians over both would mean nothing: choose another folder with \
             --out",
            facts.join("; ")
        );
    }
    Ok(())
}

fn differences(theirs: &HostFacts, ours: &HostFacts) -> Vec<String> {
    let said = |fact: Option<&String>| fact.map_or_else(|| "unknown".to_owned(), String::clone);
    let facts = [
        ("CPU", theirs.cpu_model.clone(), ours.cpu_model.clone()),
        ("cores", theirs.cores.to_string(), ours.cores.to_string()),
        ("kernel", theirs.kernel.clone(), ours.kernel.clone()),
        ("KVM", format!("{:?}", theirs.kvm), format!("{:?}", ours.kvm)),
        ("version", theirs.version.clone(), ours.version.clone()),
        ("commit", said(theirs.commit.as_ref()), said(ours.commit.as_ref())),
    ];
    let differing = facts.into_iter().filter(|(_, theirs, ours)| theirs != ours);
    differing.map(|(name, theirs, ours)| format!("{name}: {theirs} there, {ours} here")).collect()
}

/// The steps that no run is there for, in order. A run that failed was made: what came of it is its result.
pub fn remaining(steps: Vec<Step>, results: &Results) -> Vec<Step> {
    let is_made = |step: &Step| {
        results.runs.iter().any(|run| {
            let setting = step.arm.peer.map(Setting::name);
            (run.engine.is_ferry(), run.engine.setting.as_deref()) == (setting.is_none(), setting)
                && (run.pass, run.strategy, run.workload) == (step.pass, step.arm.strategy, step.arm.workload)
        })
    };
    steps.into_iter().filter(|step| !is_made(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{Choices, Fill, Idle},
        results::RunOutcome,
    };

    /// The fixture: three strategies, three runs of one guest.
    fn earlier() -> (Results, Plan) {
        let mut results = crate::report::fixture();
        let workload = results.runs[0].workload;
        let choices = Choices {
            // Those of the fixture, which is older than hybrid.
            strategies: engine::strategy::Strategy::ALL[..3].to_vec(),
            memory: vec![workload.memory_bytes],
            dirty_rates: vec![workload.dirty_rate_pages_per_second],
            working_sets: vec![workload.working_set_bytes],
            fills: vec![Fill::Random],
            vcpus: vec![1],
            idles: vec![Idle::Spin],
            links: vec![None],
            peers: Vec::new(),
        };
        let plan = Plan { choices, runs: 3, downtime_limit_us: 50_000, delay_us: 0, client: true };
        results.plan = Some(plan.clone());
        (results, plan)
    }

    #[test]
    fn what_is_not_there_remains_in_its_order() {
        let (mut results, plan) = earlier();
        assert!(remaining(plan.steps(), &results).is_empty());
        // Interrupted in the middle of the second pass; and one of the first pass had failed.
        results.runs.truncate(4);
        results.runs[1].outcome = RunOutcome::Failed;
        let left = remaining(plan.steps(), &results);
        assert_eq!(left, plan.steps()[4..]);
        results.runs.clear();
        assert_eq!(remaining(plan.steps(), &results), plan.steps());
    }

    #[test]
    fn another_engines_run_is_not_ours() {
        let (mut results, plan) = earlier();
        results.runs[0].engine = "qemu".into();
        assert_eq!(remaining(plan.steps(), &results), plan.steps()[..1]);
    }

    #[test]
    fn results_of_other_choices_are_refused_with_the_command_that_made_them() {
        let (results, plan) = earlier();
        assert!(check(&results, &plan, &results.host).is_ok());
        let more = Plan { runs: 5, ..plan.clone() };
        let error = check(&results, &more, &results.host).unwrap_err().to_string();
        assert!(error.contains("--runs differs") && error.contains(&results.host.command), "{error}");

        let elsewhere = HostFacts { kernel: "9.9".to_owned(), ..results.host.clone() };
        let error = check(&results, &plan, &elsewhere).unwrap_err().to_string();
        assert!(error.contains("9.9 here") && error.contains("--out"), "{error}");

        let unknown = Results { plan: None, ..results.clone() };
        assert!(check(&unknown, &plan, &results.host).is_err());
    }
}
