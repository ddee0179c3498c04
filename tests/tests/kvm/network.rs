//! A guest's clients notice nothing: their connections go on, and no frame is lost.

use std::time::{Duration, Instant};

use benches::{
    network::{GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, Network, NetworkConfig, Side, TAP},
    probe::{self, MigrationWindow, Probe, ProbeConfig, now_ns},
};
use engine::{options::Options, report::Outcome, strategy::Strategy};
use ferry::kvm_vm::{KvmHost, KvmVm};
use ferry_tests::{
    can_run_guests,
    guest::{assert_oracle_clean, boot_with},
    moves::Try,
};
use vmm::{Backend, DeviceConfig, MacAddress, Tap, TapError};

const MEMORY_BYTES: u64 = 64 << 20;
const NAME: &str = "network::a_connection_is_held_from_a_to_b_and_back";

/// Moves the guest to the tap of `to`; returns its new machine and how many frames were carried.
fn moved(mut source: KvmVm, strategy: Strategy, network: &Network, to: Side) -> (KvmVm, u64) {
    let context = format!("{strategy} to the {}", to.name());
    let options = Options { downtime_limit: Duration::from_secs(10), ..Options::default() };
    let attempt = Try { options, ..Try::new(strategy) };
    let host = KvmHost { taps: vec![TAP.to_owned()], ..KvmHost::default() };
    let before = carried(&source);
    // The destination makes its machine where its tap is; the link between the two is this process's own.
    let (report, arrived) = attempt.run_with(&mut source, host, |work| {
        network.in_namespace(to, work).expect("a thread in the namespace");
    });
    assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
    assert_ne!(report.verified, Some(false), "{context}");
    let vm = arrived.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_oracle_clean(&vm, &context);
    assert_eq!(carried(&source) - before, report.moved.network_frames_carried, "{context}");
    let counters = vm.machine().network()[0].counters();
    assert_eq!(
        counters.injected, report.moved.network_frames_carried,
        "{context}: a frame was lost on the way"
    );
    assert_eq!(counters.dropped, 0, "{context}");
    (vm, report.moved.network_frames_carried)
}

/// The source's tap. Whoever announced the last guest here may do so once more, half a second after its start.
fn free_tap(network: &Network) -> Tap {
    let begin = Instant::now();
    loop {
        match network.in_namespace(Side::Source, || Tap::open(TAP)).expect("a thread") {
            Err(TapError::Busy { .. }) if begin.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            tap => return tap.expect("the tap"),
        }
    }
}

fn carried(vm: &KvmVm) -> u64 {
    vm.machine().network()[0].counters().carried
}

#[test]
fn a_connection_is_held_from_a_to_b_and_back() {
    if !can_run_guests(NAME) {
        return;
    }
    let network = match Network::up(&NetworkConfig::default()) {
        Ok(network) => network,
        Err(why) => return println!("skipped: {NAME}: {why}"),
    };
    for strategy in Strategy::ALL {
        let tap = free_tap(&network);
        let devices = vec![DeviceConfig::Net { mac: MacAddress(GUEST_MAC) }];
        let line = format!("working-set=4MiB dirty-rate=2000 idle=halt net={GUEST_ADDRESS}/{GUEST_PREFIX}");
        let a = boot_with(MEMORY_BYTES, 1, &line, devices, vec![Backend::Net(tap)]);
        let config = ProbeConfig {
            // What is looked for is loss, not speed: a busy host must keep up.
            request_period: Duration::from_millis(5),
            datagram_period: Duration::from_millis(5),
            ..ProbeConfig::of_guest(GUEST_ADDRESS)
        };
        let client = network.in_namespace(Side::Client, || Probe::start(&config));
        let client = client.expect("a thread").expect("the guest's services answer");
        let begin_ns = now_ns();
        let (b, there) = moved(a, strategy, &network, Side::Destination);
        let (a, back) = moved(b, strategy, &network, Side::Source);
        let end_ns = now_ns();
        std::thread::sleep(Duration::from_millis(300));
        let recording = client.finish();
        let window = MigrationWindow { begin_ns, switchover_end_ns: end_ns, end_ns };
        let seen = probe::report(&recording, &window, None);
        println!("{strategy}: {there} frames carried there and {back} back, the client saw {seen:?}");
        assert!(
            seen.requests_sent > 0 && seen.stream_bytes_checked.is_some_and(|bytes| bytes > 0),
            "{seen:?}"
        );
        assert_eq!(
            (seen.requests_lost, seen.connections_reset, seen.responses_malformed),
            (0, 0, 0),
            "{seen:?}"
        );
        assert_eq!(seen.stream_errors, Some(0), "{seen:?}");
        let udp = seen.udp.expect("datagrams were sent");
        assert_eq!((udp.lost, udp.duplicated), (0, 0), "{udp:?}");
        drop(a);
    }
}
