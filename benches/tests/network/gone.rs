//! Nothing is left of a network: neither when it is dropped nor when its harness is killed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use benches::network::{Network, NetworkConfig, Side};

use crate::{
    held::{host_interfaces, is_held, wait_until_gone},
    network,
};

/// The names of a network's namespaces: `net:[4026532281]`.
fn names(network: &Network) -> Vec<String> {
    let name = || fs::read_link("/proc/thread-self/ns/net").unwrap().to_string_lossy().into_owned();
    [Side::Source, Side::Destination, Side::Client]
        .map(|side| network.in_namespace(side, name).unwrap())
        .to_vec()
}

#[test]
fn a_dropped_network_is_gone_and_the_host_never_saw_it() {
    let before = host_interfaces();
    let name = "a_dropped_network_is_gone_and_the_host_never_saw_it";
    let Some(network) = network(name, &NetworkConfig::default()) else { return };
    let names = names(&network);
    assert!(is_held(&names));
    assert_eq!(host_interfaces(), before);
    drop(network);
    wait_until_gone(&names);
    assert_eq!(host_interfaces(), before);
}

/// Set for the process that a test starts of itself, to be killed.
const HOLD: &str = "FERRY_TEST_HOLDS_A_NETWORK";

/// Played by a process of its own, until it is killed.
fn hold_a_network() {
    let network = Network::up(&NetworkConfig::default()).unwrap();
    let mut child = Command::new("sleep");
    network.enter(Side::Source, child.arg("600")).unwrap();
    // Dies with this process, as all processes of the rig do.
    benches::rig::die_with_parent(&mut child);
    let mut child = child.spawn().unwrap();
    println!("\nheld {} {}", child.id(), names(&network).join(" "));
    child.wait().unwrap();
}

#[test]
fn a_killed_harness_leaves_nothing() {
    if env::var_os(HOLD).is_some() {
        return hold_a_network();
    }
    if network("a_killed_harness_leaves_nothing", &NetworkConfig::default()).is_none() {
        return;
    }
    let before = host_interfaces();
    let mut harness = Command::new(env::current_exe().unwrap())
        .args(["--exact", "gone::a_killed_harness_leaves_nothing", "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("held ")).expect("a network is held");
    let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
    let (child, names) = (&words[0], &words[1..]);
    assert!(is_held(names) && Path::new("/proc").join(child).exists());

    // Kill -9: no drop, no handler.
    harness.kill().unwrap();
    harness.wait().unwrap();
    wait_until_gone(names);
    assert_eq!(host_interfaces(), before);
}
