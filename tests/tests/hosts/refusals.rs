//! Migrations that do not come about, and hosts and links that fail: the guest runs on, or what happened is said.

use std::time::{Duration, Instant};

use testbed::{Bed, BedConfig, Host, HostConfig};

use crate::{
    bed,
    by_hand::{any, ok, with_causes},
};

/// Boots pulse on host 1 with so much memory, most of which it never touches.
fn pulse(bed: &Bed, memory: &str) {
    let words = "fill=zeros working-set=4MiB rate=500";
    ok(bed.host(0), &format!("ferry run pulse {words} --memory {memory} --detach"));
}

/// The guest runs on at this host, and its memory is right.
fn expect_running(host: &Host, context: &str) {
    let checked = ok(host, "ferry check pulse");
    assert!(checked.contains(" 0 errors"), "{context}: {checked}");
}

/// Tries to move pulse to host 2, which must be refused with all of `words`, and before anything was sent.
fn expect_refused(bed: &Bed, words: &[&str]) {
    let tried = any(bed.host(0), "ferry migrate pulse tcp://host-2:7800");
    let (report, said) = (tried.text(), tried.error_text());
    assert_eq!(tried.status, 1, "{report} {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert!(!report.contains("sent") || report.contains(" 0 B, 0 pages"), "pages were sent: {report}");
    expect_running(bed.host(0), "after a refusal");
}

#[test]
fn a_host_without_room() {
    let small = HostConfig { memory_bytes: 256 << 20, ..HostConfig::with_kvm() };
    let hosts = vec![HostConfig::with_kvm(), small];
    let Some(bed) = bed("refusals::a_host_without_room", &BedConfig { hosts, ..BedConfig::two() }) else {
        return;
    };
    pulse(&bed, "512MiB");
    ok(bed.host(1), "ferry receive tcp://0.0.0.0:7800 --detach");
    expect_refused(&bed, &["memory"]);
}

#[test]
fn a_host_whose_cpu_lacks_a_feature() {
    let lacking = HostConfig { cpu: "max,+svm,-xsave,-aes".to_owned(), ..HostConfig::with_kvm() };
    let hosts = vec![HostConfig::with_kvm(), lacking];
    let test = "refusals::a_host_whose_cpu_lacks_a_feature";
    let Some(bed) = bed(test, &BedConfig { hosts, ..BedConfig::two() }) else { return };
    pulse(&bed, "64MiB");
    ok(bed.host(1), "ferry receive tcp://0.0.0.0:7800 --detach");
    expect_refused(&bed, &["aes"]);
    // The other way round nothing is missing.
    ok(bed.host(0), "ferry stop pulse");
    ok(bed.host(1), "ferry run pulse fill=zeros working-set=4MiB rate=500 --memory 64MiB --detach");
    ok(bed.host(0), "ferry receive tcp://0.0.0.0:7800 --once --detach");
    ok(bed.host(1), "ferry migrate pulse tcp://host-1:7800 --downtime-limit 10s");
    expect_running(bed.host(0), "from a host that lacks a feature to one that has it");
}

#[test]
fn a_peer_that_is_none_or_of_another_version() {
    let test = "refusals::a_peer_that_is_none_or_of_another_version";
    let Some(bed) = bed(test, &BedConfig::two()) else { return };
    pulse(&bed, "32MiB");
    // A greeting's magic and version, and what else belongs to one; and what a web server says.
    let other_version = format!("FERRYMIG\\143{}", "\\000".repeat(23));
    answer_with(bed.host(1), &other_version);
    expect_refused(&bed, &["version 99", "install the same Ferry on both hosts"]);
    answer_with(bed.host(1), &format!("HTTP/1.0 400 Bad Request{}", "\\r\\n".repeat(8)));
    expect_refused(&bed, &["does not speak Ferry's protocol"]);
}

/// Has whoever connects to Ferry's port there get these bytes, as `printf` writes them.
fn answer_with(host: &Host, bytes: &str) {
    let listen = format!("printf '{bytes}' | nc -l -p 7800");
    let stop = "kill $(cat /tmp/answer); killall nc";
    let start = format!("(while :; do {listen}; done) >/dev/null 2>&1 & echo $! >/tmp/answer");
    ok(host, &format!("({stop}) 2>/dev/null; {start}; sleep 1"));
}

/// Starts a slow migration of pulse from host 1 to host 2 and waits until pages cross.
fn under_way(bed: &Bed, strategy: &str) {
    ok(bed.host(1), "ferry receive tcp://0.0.0.0:7800 --once --detach");
    let migrate =
        format!("ferry migrate pulse tcp://host-2:7800 --strategy {strategy} --max-bandwidth 4Mbit");
    ok(bed.host(0), &format!("{migrate} >/tmp/migrate.out 2>&1 &"));
}

/// Waits until a command prints this.
fn await_words(host: &Host, command: &str, words: &str) -> String {
    let begin = Instant::now();
    loop {
        let output = any(host, command);
        let said = format!("{} {}", output.text(), output.error_text());
        if said.contains(words) {
            return said;
        }
        assert!(begin.elapsed() < Duration::from_secs(180), "{command}: no {words:?} in {said:?}");
        let pause = host.run("sleep 0.2", Duration::from_secs(30));
        pause.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
    }
}

#[test]
fn the_destination_dies_during_pre_copy() {
    let test = "refusals::the_destination_dies_during_pre_copy";
    let Some(bed) = bed(test, &BedConfig::two()) else { return };
    ok(bed.host(0), "ferry run pulse working-set=4MiB rate=500 --memory 32MiB --detach");
    under_way(&bed, "pre-copy");
    await_words(bed.host(0), "ferry info pulse", "round");
    bed.host(1).kill();
    let said = await_words(bed.host(0), "cat /tmp/migrate.out", "runs on here");
    assert!(!said.contains("moved by"), "{said}");
    expect_running(bed.host(0), "after the destination died");
}

#[test]
fn the_link_is_cut_during_post_copy() {
    let test = "refusals::the_link_is_cut_during_post_copy";
    let Some(bed) = bed(test, &BedConfig::two()) else { return };
    ok(bed.host(0), "ferry run pulse working-set=4MiB rate=500 --memory 32MiB --detach");
    under_way(&bed, "post-copy");
    await_words(bed.host(1), "ferry ps", "pulse");
    bed.cut(0, 1);
    // Neither host may end its part of the guest: one holds the pages, the other what the guest did since.
    let at_source = await_words(bed.host(0), "cat /tmp/migrate.out; ferry ps", "pulse");
    let at_destination = any(bed.host(1), "ferry ps");
    assert!(at_destination.text().contains("pulse"), "{at_source} {at_destination:?}");
    // TCP outlives a cut of some seconds.
    ok(bed.host(0), "sleep 5");
    bed.mend(0, 1);
    await_words(bed.host(0), "cat /tmp/migrate.out", "moved by post-copy");
    expect_running(bed.host(1), "after the link was mended");
}
