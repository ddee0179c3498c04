//! A client asks a real guest while it moves: KVM, a network of namespaces, and all three clocks.

use std::process::Command;

use engine::strategy::Strategy;

use benches::{
    host::Machines,
    results::{self, Kind, Phase, RunOutcome, Timelines},
};

#[test]
fn a_client_holds_its_connections_while_the_guest_moves_by_each_strategy() {
    let name = "a_client_holds_its_connections_while_the_guest_moves_by_each_strategy";
    if let Err(refusal) = linux_host::network::permitted() {
        println!("skipped: {name}: {}", engine::report::in_words(&refusal));
        return;
    }
    let machines = Machines::probe(false);
    if let Some(reason) = machines.simulated.or(machines.no_missing_pages) {
        println!("skipped: {name}: {reason}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let line = ["--memory", "32MiB", "--working-set", "4MiB", "--dirty-rate", "1000", "--runs", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_ferry-bench"))
        .args(line)
        .args(["--link", "10Gbit"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("Client: of "), "{said}");

    let results = results::read(&folder.path().join("report/results.json")).unwrap();
    assert_eq!(results.runs.len(), Strategy::ALL.len());
    for run in &results.runs {
        let strategy = run.strategy;
        assert_eq!((run.outcome, run.verified), (RunOutcome::Completed, Some(true)), "{strategy}");
        let client = run.client.as_ref().expect("there is a client");
        // The connections are held, and every byte is right: TCP brings again what the network may lose.
        assert_eq!((client.requests_lost, client.connections_reset), (0, 0), "{strategy}: {client:?}");
        assert_eq!(
            (client.responses_malformed, client.stream_errors),
            (0, Some(0)),
            "{strategy}: {client:?}"
        );
        assert!(
            client.stream_bytes_checked > Some(0) && client.requests_sent > 2_000,
            "{strategy}: {client:?}"
        );
        let times = client.response_us;
        assert!(times.before.is_some() && times.during.is_some() && times.after.is_some(), "{client:?}");
        assert!(client.downtime_client_us.is_some() && run.downtime_guest_us.is_some(), "{strategy}");
    }

    let timelines = Timelines::read(&folder.path().join("report/timeline.csv"), |_| true).unwrap();
    for (i, run) in results.runs.iter().enumerate() {
        let phases = run.phases.expect("a client's requests have an axis");
        assert!(phases.command < 0 && phases.switchover_end > 0, "{phases:?}");
        let requests = timelines.of(i + 1).expect("each run has its requests");
        let client = run.client.as_ref().expect("looked at above");
        let count = |kind| requests.iter().filter(|request| request.kind == kind).count() as u64;
        assert_eq!(count(Kind::Http), client.requests_sent);
        assert_eq!(Some(count(Kind::Udp)), client.udp.as_ref().map(|udp| udp.sent));
        for phase in [Phase::Before, Phase::After] {
            assert!(requests.iter().any(|request| phases.at(request.scheduled_us) == phase), "{phase:?}");
        }
        assert!(run.guest_gaps.is_some(), "{}: the guest saw at least its switchover", run.strategy);
    }
    let page = std::fs::read_to_string(folder.path().join("report/index.html")).unwrap();
    assert_eq!(page.matches("class=\"plot\"").count(), Strategy::ALL.len());
}
