//! The host, the command, the date: without them a figure means nothing.

use maud::{Markup, html};

use crate::{host::Kvm, results::Results, statistics::Spread, units};

/// As a list.
pub fn draw(results: &Results) -> Markup {
    let host = &results.host;
    let load = &host.load;
    let mut facts = vec![
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
        ("Congestion control", congestion_control(host.congestion_control.as_deref())),
        ("Real-time threads", realtime_threads(host.realtime_threads).to_owned()),
        ("Load in runs", load_in_runs(results).unwrap_or_else(|| "not known".to_owned())),
        ("Load before", format!("{} / {} / {}", load.one_minute, load.five_minutes, load.fifteen_minutes)),
    ];
    if results.runs.iter().any(|run| !run.engine.is_ferry()) {
        let vhost = if host.vhost_net { "with vhost" } else { "without vhost: the host has none" };
        facts.push(("QEMU's network card", vhost.to_owned()));
    }
    html! {
        dl.facts {
            @for (name, value) in facts {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn congestion_control(set: Option<&str>) -> String {
    match set {
        Some(name) => format!("{name}, set for the links of both engines"),
        None => "the host's own; Ferry asks for one without pacing".to_owned(),
    }
}

fn realtime_threads(permitted: Option<bool>) -> &'static str {
    match permitted {
        Some(true) => "some of Ferry's (SCHED_FIFO); none of QEMU's",
        Some(false) => "none: not permitted here",
        None => "not known",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_28_the_page_says_what_the_engines_were_given() {
        let mut results = crate::report::fixture();
        let page = draw(&results).into_string();
        assert!(page.contains("the host&#39;s own") || page.contains("the host's own"), "{page}");
        assert!(!page.contains("vhost"), "nothing of QEMU where it did not run: {page}");
        results.host.congestion_control = Some("cubic".to_owned());
        results.host.realtime_threads = Some(true);
        results.runs[0].engine = "qemu".into();
        let page = draw(&results).into_string();
        for words in ["cubic, set for the links of both engines", "SCHED_FIFO", "without vhost"] {
            assert!(page.contains(words), "{words}: {page}");
        }
        results.host.vhost_net = true;
        assert!(draw(&results).into_string().contains("with vhost"));
    }
}
