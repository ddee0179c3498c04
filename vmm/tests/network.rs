//! The built-in guest serves the network through a tap, and goes on serving it, connections and all, from another machine
//! with another tap.

mod common;
#[path = "common/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, copy_memory, has_kvm, until};
use guest_images::pulse::{CommandLine, DirtyRate, IMAGE, Idle};
use vmm::{Backend, CpuModel, DeviceConfig, MAX_FRAME_BYTES, MacAddress, NetPort, Tap, Vm, VmConfig};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0x77, 2]);
const ECHO: u16 = 7;
const HTTP: u16 = 80;
/// Linux sends again after this at the earliest (TCP_RTO_MIN).
const TCP_WAITS: Duration = Duration::from_millis(200);

fn config() -> VmConfig {
    let devices = vec![DeviceConfig::Rng, DeviceConfig::Net { mac: MAC }];
    VmConfig { devices, ..common::config(32, 1) }
}

/// A machine on a tap of its own, which is on the bridge.
fn machine(tap: &str) -> (Vm, NetPort) {
    let opened = Tap::open(tap).expect("a tap");
    wire::join(tap);
    let cpu = CpuModel::host().expect("this host's CPU");
    let vm = Vm::new(&config(), &cpu, vec![Backend::Rng, Backend::Net(opened)]).expect("a machine");
    let [port] = vm.network().try_into().expect("one card");
    (vm, port)
}

fn boot(vm: &mut Vm, idle: Idle) {
    let line = CommandLine {
        idle,
        working_set_bytes: 1 << 20,
        dirty_rate: DirtyRate::PagesPerSecond(1_000),
        network: Some(format!("{GUEST}/24").parse().expect("an address")),
        ..CommandLine::default()
    };
    vm.boot(IMAGE, &line.to_string(), None).expect("pulse boots");
    vm.start();
}

fn connect(port: u16) -> TcpStream {
    let address = SocketAddr::from((GUEST, port));
    let mut stream = None;
    until("the guest takes a connection", || {
        stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
        stream.is_some()
    });
    let stream = stream.expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn get(reader: &mut BufReader<TcpStream>) -> String {
    reader.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: pulse\r\n\r\n").expect("asks");
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("answers"), 0, "the connection was closed");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("answers");
    String::from_utf8(body).expect("text")
}

#[test]
fn the_guest_answers_through_its_tap() {
    let test = "the_guest_answers_through_its_tap";
    if !has_kvm(test) || !wire::in_own_network(test, HOST) {
        return;
    }
    let (mut vm, port) = machine("ferrytap0");
    boot(&mut vm, Idle::Halt);
    let mut http = BufReader::new(connect(HTTP));
    assert!(get(&mut http).contains("\"guest\":\"pulse\""));
    let datagrams = UdpSocket::bind((HOST, 0)).expect("a socket");
    datagrams.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut slowest = Duration::ZERO;
    for number in 0..200u32 {
        let start = Instant::now();
        datagrams.send_to(&number.to_le_bytes(), (GUEST, ECHO)).expect("sends");
        let mut back = [0; 8];
        assert_eq!(datagrams.recv(&mut back).expect("an echo"), 4);
        assert_eq!(back[..4], number.to_le_bytes());
        slowest = slowest.max(start.elapsed());
    }
    println!("slowest of 200 echoes: {slowest:?}; {:?}", port.counters());
    let counters = port.counters();
    assert!(counters.received >= 200 && counters.sent >= 200, "{counters:?}");
    assert_eq!(counters.dropped, 0);
    assert_eq!(port.guest_address(), Some(GUEST));
}

/// Copies memory while the guest stands still, and carries the frames that come for it meanwhile and for a while longer.
fn moved(from: &mut Vm, source: &NetPort, to: &mut Vm, destination: &NetPort, still: &AtomicBool) {
    from.pause().expect("pauses");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut frame = vec![0; MAX_FRAME_BYTES];
            while still.load(Ordering::SeqCst) {
                match source.take_frame(&mut frame).expect("takes") {
                    Some(bytes) => destination.inject(&frame[..bytes]).expect("room"),
                    None => std::thread::sleep(Duration::from_micros(50)),
                }
            }
        });
        let state = from.save().expect("saves");
        copy_memory(from, to);
        // Clients go on asking meanwhile.
        std::thread::sleep(Duration::from_millis(30));
        to.restore(&state).expect("restores");
        to.start();
        for _ in 0..3 {
            destination.announce().expect("announces");
            std::thread::sleep(Duration::from_millis(50));
        }
        still.store(false, Ordering::SeqCst);
    });
}

#[test]
fn connections_go_on_in_another_machine_without_a_lost_frame() {
    let test = "connections_go_on_in_another_machine_without_a_lost_frame";
    if !has_kvm(test) || !wire::in_own_network(test, HOST) {
        return;
    }
    let (mut first, first_port) = machine("ferrytap0");
    boot(&mut first, Idle::Halt);
    let mut http = BufReader::new(connect(HTTP));
    get(&mut http);
    let stream = connect(ECHO);
    let (done, mut machines) = (AtomicBool::new(false), vec![(first, first_port)]);
    std::thread::scope(|scope| {
        // A stream all of whose bytes must come back in order, a small piece every millisecond.
        let client = scope.spawn(|| {
            let mut stream = &stream;
            let (mut number, mut longest) = (0u64, Duration::ZERO);
            while !done.load(Ordering::SeqCst) {
                let start = Instant::now();
                stream.write_all(&number.to_le_bytes()).expect("sends");
                let mut back = [0; 8];
                stream.read_exact(&mut back).expect("comes back");
                assert_eq!(u64::from_le_bytes(back), number);
                longest = longest.max(start.elapsed());
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            (number, longest)
        });
        // Others that do not wait for each answer: their frames come while nobody runs. Not more at once than the guest's
        // socket has room for, or it would lose them by itself.
        let probe = scope.spawn(|| {
            const AT_ONCE: usize = 16;
            let socket = UdpSocket::bind((HOST, 0)).expect("a socket");
            socket.set_nonblocking(true).expect("an option");
            let (mut sent, mut came) = (0, std::collections::BTreeSet::new());
            let mut back = [0; 8];
            let start = Instant::now();
            while !done.load(Ordering::SeqCst) || came.len() < sent {
                if !done.load(Ordering::SeqCst) && sent - came.len() < AT_ONCE {
                    socket.send_to(&(sent as u64).to_le_bytes(), (GUEST, ECHO)).expect("sends");
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
                while socket.recv(&mut back).is_ok() {
                    came.insert(u64::from_le_bytes(back));
                }
                assert!(start.elapsed() < PATIENCE, "{} of {sent} datagrams came back", came.len());
            }
            sent
        });
        for tap in ["ferrytap1", "ferrytap2"] {
            std::thread::sleep(Duration::from_millis(100));
            let (mut next, port) = machine(tap);
            let (from, source) = machines.last_mut().expect("there is one");
            moved(from, source, &mut next, &port, &AtomicBool::new(true));
            machines.push((next, port));
        }
        std::thread::sleep(Duration::from_millis(100));
        done.store(true, Ordering::SeqCst);
        let (pieces, longest) = client.join().expect("no panic");
        let datagrams = probe.join().unwrap_or_else(|_| {
            let counters: Vec<_> = machines.iter().map(|(_, port)| port.counters()).collect();
            panic!("datagrams are lost: {counters:?}; {}", get(&mut http));
        });
        println!("{pieces} pieces by TCP, the slowest in {longest:?}; {datagrams} datagrams, none lost");
        // A busy host may keep the guest still for longer than TCP waits: then something is sent twice, and nothing lost.
        if longest < TCP_WAITS {
            assert_eq!(wire::retransmissions(&stream), 0, "no segment was sent again");
        }
    });
    for (vm, port) in &machines {
        println!("{}: {:?}", port.tap_name(), port.counters());
        assert_eq!(port.counters().dropped, 0);
        assert!(vm.events().poll().is_none());
    }
    let carried: u64 = machines.iter().map(|(_, port)| port.counters().carried).sum();
    let injected: u64 = machines.iter().map(|(_, port)| port.counters().injected).sum();
    assert!(carried > 0, "frames came while nobody ran");
    assert_eq!(carried, injected);
    let guest = get(&mut http);
    assert!(guest.contains("\"errors\":0"), "the connection from before is still there: {guest}");
}

/// Whether a thread of this name goes before all that share processors by weight (proc_pid_stat(5): field 41 is its policy).
fn goes_first(name: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").expect("this process's threads");
    threads.flatten().any(|thread| {
        // A thread may end while it is looked at.
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let Some((start, fields)) = stat.rsplit_once(") ") else { return false };
        start.ends_with(&format!("({name}")) && fields.split(' ').nth(38) == Some("1")
    })
}

#[test]
fn a_card_goes_ahead_while_that_is_wanted() {
    let test = "a_card_goes_ahead_while_that_is_wanted";
    let permitted = std::thread::spawn(linux_host::scheduling::go_first).join().expect("a thread");
    if !permitted {
        println!("skipped: {test}: no thread may go before others here (SCHED_FIFO needs CAP_SYS_NICE)");
        return;
    }
    if !has_kvm(test) || !wire::in_own_network(test, HOST) {
        return;
    }
    let (_vm, port) = machine("ferrytap0");
    assert!(!goes_first("net1"));
    port.go_ahead(true);
    until("the card's thread goes ahead", || goes_first("net1"));
    port.go_ahead(false);
    until("the card's thread is as any other", || !goes_first("net1"));
}
