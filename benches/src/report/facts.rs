//! The host, the command, the date: without them a figure means nothing.

use maud::{Markup, html};

use crate::{host::Kvm, results::Results, statistics::Spread, units};

/// As a list.
pub fn draw(results: &Results) -> Markup {
    let host = &results.host;
    let load = &host.load;
    let facts = [
        ("Command", host.command.clone()),
        ("Date", host.date.clone()),
        (
            "Ferry",
            match &host.commit {
                Some(commit) => format!("{}, commit {commit}", host.version),
                None => host.version.clone(),
            },
        ),
        ("CPU", format!("{}, {} online", host.cpu_model, host.cores)),
        ("Memory", units::bytes(host.memory_bytes)),
        ("Kernel", host.kernel.clone()),
        ("KVM", kvm(host.kvm).to_owned()),
        ("Load in runs", load_in_runs(results).unwrap_or_else(|| "not known".to_owned())),
        ("Load before", format!("{} / {} / {}", load.one_minute, load.five_minutes, load.fifteen_minutes)),
    ];
    html! {
        dl.facts {
            @for (name, value) in facts {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// What others used of the host meanwhile.
fn load_in_runs(results: &Results) -> Option<String> {
    let others = Spread::of(results.runs.iter().map(|run| u64::from(run.others_cpu_percent)))?;
    let stolen = Spread::of(results.runs.iter().map(|run| run.stolen_cpu_us))?;
    Some(format!(
        "others used {} % of all CPUs (median), {} % at most; a hypervisor took away {} ms (median), {} ms at most",
        others.median,
        others.max,
        stolen.median / 1_000,
        stolen.max / 1_000
    ))
}

/// In words.
fn kvm(kind: Kvm) -> &'static str {
    match kind {
        Kvm::Vmx => "Intel VT-x",
        Kvm::Svm => "AMD-V",
        Kvm::Pvm => "page-table virtualisation (kvm-pvm), neither VT-x nor AMD-V",
        Kvm::Other => "of an unknown kind",
        Kvm::None => "none: guests were simulated",
    }
}
