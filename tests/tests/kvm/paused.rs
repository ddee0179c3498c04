//! A guest that its user has paused moves with its network and its disk, is held where it comes to, and is alive there once
//! it is resumed.

use std::{
    fs::File,
    net::UdpSocket,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use benches::network::{
    CLIENT_ADDRESS, GUEST_ADDRESS, GUEST_MAC, GUEST_PREFIX, Network, NetworkConfig, Side, TAP,
};
use engine::{
    options::Options,
    report::Outcome,
    strategy::Strategy,
    vm::{HeldVm, SourceVm},
};
use ferry::kvm_vm::{KvmHost, KvmVm};
use ferry_tests::{
    can_run_guests,
    guest::{assert_oracle_clean, boot_with, snapshot},
    moves::Try,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, socket_with};
use vmm::{Backend, DeviceConfig, Disk, MacAddress, Tap, TapError};

use crate::disks::is_held;

const NAME: &str = "paused::a_paused_guest_arrives_held_with_network_and_disk";
const DISK_BYTES: u64 = 1 << 20;
/// How long anything may take; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The tap of a side. Whoever announced the last guest here may hold it for half a second more.
fn free_tap(network: &Network, side: Side) -> Tap {
    let begin = Instant::now();
    loop {
        match network.in_namespace(side, || Tap::open(TAP)).expect("a thread") {
            Err(TapError::Busy { .. }) if begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            tap => return tap.expect("the tap"),
        }
    }
}

/// Hears RARP frames, which nobody but who announces a guest sends, in the client's network.
struct Announcements(OwnedFd);

impl Announcements {
    fn listen(network: &Network) -> Announcements {
        let open = || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::RARP))
        };
        Announcements(network.in_namespace(Side::Client, open).expect("a thread").expect("a raw socket"))
    }

    /// How many were heard since this was asked last: each once, as the bridge takes it from its port.
    fn count(&self) -> usize {
        let mut frame = [0; 128];
        std::iter::from_fn(|| rustix::io::read(&self.0, &mut frame).ok()).count()
    }
}

/// Sends a datagram to the guest, and takes what it echoes.
struct Client(UdpSocket);

impl Client {
    fn of(network: &Network) -> Client {
        let bound = network.in_namespace(Side::Client, || UdpSocket::bind((CLIENT_ADDRESS, 0)));
        let socket = bound.expect("a thread").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.connect((GUEST_ADDRESS, 7)).expect("an address");
        Client(socket)
    }

    fn send(&self, words: &str) {
        self.0.send(words.as_bytes()).expect("it is sent");
    }

    fn assert_echo(&self, words: &str, context: &str) {
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer).unwrap_or_else(|error| panic!("{context}: no echo: {error}"));
        assert_eq!(std::str::from_utf8(&answer[..length]), Ok(words), "{context}");
    }
}

fn heartbeat(vm: &KvmVm) -> u64 {
    snapshot(vm).expect("a guest that stands still has whole telemetry").heartbeat()
}

/// Moves a guest that stands still; it stands still on the other side, where it has the disk.
fn moved(mut source: KvmVm, strategy: Strategy, network: &Network, to: Side, disk: &Path) -> KvmVm {
    let context = format!("{strategy} to the {}", to.name());
    let before = heartbeat(&source);
    drop(free_tap(network, to));
    let options = Options { downtime_limit: Duration::from_secs(10), ..Options::default() };
    let attempt = Try { options, ..Try::new(strategy) };
    let disks: Vec<PathBuf> = vec![disk.to_owned()];
    let host = KvmHost { taps: vec![TAP.to_owned()], disks, ..KvmHost::default() };
    let (report, arrived) = attempt.run_with(&mut HeldVm(&mut source), host, |work| {
        network.in_namespace(to, work).expect("a thread in the namespace");
    });
    assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
    assert!(report.paused, "{context}");
    assert_ne!(report.verified, Some(false), "{context}");
    assert_eq!(heartbeat(&source), before, "{context}: it ran at the source");
    drop(source);
    let vm = arrived.unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(is_held(disk), "{context}: the destination has the disk, while the guest stands still, too");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(heartbeat(&vm), before, "{context}: nobody has resumed it");
    vm
}

#[test]
fn a_paused_guest_arrives_held_with_network_and_disk() {
    if !can_run_guests(NAME) {
        return;
    }
    let network = match Network::up(&NetworkConfig::default()) {
        Ok(network) => network,
        Err(why) => return println!("skipped: {NAME}: {why}"),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.raw");
    File::create(&path).and_then(|file| file.set_len(DISK_BYTES)).expect("a file");
    let devices = vec![
        DeviceConfig::Net { mac: MacAddress(GUEST_MAC) },
        DeviceConfig::Block { read_only: false, bytes: DISK_BYTES },
    ];
    let backends = vec![
        Backend::Net(free_tap(&network, Side::Source)),
        Backend::Disk(Disk::new(&path, false).expect("a disk")),
    ];
    let line = format!("working-set=4MiB dirty-rate=2000 idle=halt net={GUEST_ADDRESS}/{GUEST_PREFIX}");
    let mut vm = boot_with(64 << 20, 2, &line, devices, backends);
    let (client, heard) = (Client::of(&network), Announcements::listen(&network));
    client.send("at the source");
    client.assert_echo("at the source", "before any move");

    let there_and_back = [Side::Destination, Side::Source];
    for (strategy, to) in Strategy::ALL.into_iter().zip(there_and_back.into_iter().cycle()) {
        let context = format!("{strategy} to the {}", to.name());
        vm.pause().expect("pauses");
        // It reaches a tap whose guest stands still, and is for the guest all the same.
        let word = format!("before {strategy}");
        client.send(&word);
        vm = moved(vm, strategy, &network, to, &path);
        assert_eq!(heard.count(), 0, "{context}: announced although it does not run");

        vm.resume().expect("runs on");
        client.assert_echo(&word, &context);
        let word = format!("after {strategy}");
        client.send(&word);
        client.assert_echo(&word, &context);
        assert_oracle_clean(&vm, &context);
        assert!(is_held(&path), "{context}: it runs with its disk");
        // At once and four times more, as one that was not paused.
        let begin = Instant::now();
        let mut announced = 0;
        while announced < 5 {
            announced += heard.count();
            assert!(begin.elapsed() < PATIENCE, "{context}: announced {announced} times only");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    drop(vm);
    assert!(!is_held(&path), "free when the guest is gone");
}
