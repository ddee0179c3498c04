//! The network service over QEMU's virtio-net, by ports that QEMU forwards: real clients, while writers write.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use guest_images::pulse::{CommandLine, DirtyRate, Idle};

use crate::machine::Machine;
use crate::{MIB, line};

/// No answer takes so long, even on a software CPU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const GET: &str = "GET / HTTP/1.1\r\nHost: pulse\r\n\r\n";

/// A guest with a network, and where QEMU forwards its ports from.
struct Networked {
    machine: Machine,
    http: SocketAddr,
    echo: SocketAddr,
    datagrams: SocketAddr,
}

/// A port nobody has now.
fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn device(network: &str) -> Vec<String> {
    ["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-net-device,netdev=n", "-netdev", network]
        .map(str::to_owned)
        .to_vec()
}

impl Networked {
    fn start(line: &CommandLine) -> Option<Self> {
        let (http, echo, datagrams) = (free_port(), free_port(), free_port());
        let forward = |kind: &str, from: SocketAddr, to: u16| {
            format!("hostfwd={kind}:127.0.0.1:{}-10.0.2.15:{to}", from.port())
        };
        let network = format!(
            "user,id=n,{},{},{}",
            forward("tcp", http, 80),
            forward("tcp", echo, 7),
            forward("udp", datagrams, 7)
        );
        let line = CommandLine { network: Some("10.0.2.15/24,gw=10.0.2.2".parse().unwrap()), ..*line };
        let mut machine = Machine::start_with_devices(32 * MIB, &line, &device(&network))?;
        machine.wait_until("ready", telemetry::Snapshot::is_ready);
        Some(Self { machine, http, echo, datagrams })
    }

    /// QEMU accepts for the guest; what comes back is the guest's.
    fn connect(to: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// The guest is as it should be: it wrote, and all its memory and registers are right.
    fn ends_well(mut self) {
        assert_eq!(self.machine.check().errors, 0);
        let snapshot = self.machine.snapshot();
        assert_eq!(snapshot.errors(), 0, "{:?}", snapshot.named_errors().collect::<Vec<_>>());
        assert!(snapshot.fault.is_none());
        assert_eq!(self.machine.stop(5), 5);
    }
}

/// One response: its status, and its body.
fn response(stream: &mut TcpStream) -> (String, String) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let status = head.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    (status.to_owned(), String::from_utf8(body).unwrap())
}

fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    response(stream)
}

/// A number of a JSON body.
fn number(body: &str, name: &str) -> u64 {
    let start = body.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {body}"));
    let digits = &body[start + name.len() + 3..];
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
}

#[test]
fn http_is_served_while_writers_write() {
    for (vcpus, idle, dirty_rate) in [
        (1, Idle::Spin, DirtyRate::PagesPerSecond(10_000)),
        (2, Idle::Halt, DirtyRate::PagesPerSecond(5_000)),
        (2, Idle::Spin, DirtyRate::Max),
    ] {
        let line = CommandLine { idle, dirty_rate, ..line(vcpus) };
        let Some(net) = Networked::start(&line) else { return };
        let mut stream = Networked::connect(net.http);
        let (status, first) = ask(&mut stream, GET);
        assert_eq!(status, "200 OK");
        assert_eq!(number(&first, "vcpus"), vcpus);
        assert_eq!(number(&first, "working_set_pages"), 1_024);
        // One connection, kept; every page it asks for is right.
        for pages in [1, 10, 3_000] {
            let request = format!("GET /memory?pages={pages} HTTP/1.1\r\nHost: pulse\r\n\r\n");
            let (status, body) = ask(&mut stream, &request);
            assert_eq!((status.as_str(), number(&body, "pages")), ("200 OK", pages));
            assert_eq!(number(&body, "errors"), 0);
        }
        for _ in 0..200 {
            ask(&mut stream, GET);
        }
        let (_, last) = ask(&mut stream, GET);
        assert_eq!(number(&last, "requests") - number(&first, "requests"), 204);
        assert_eq!(number(&last, "connections"), 1);
        assert!(number(&last, "pages_written") > number(&first, "pages_written"));
        assert!(number(&last, "heartbeat") > number(&first, "heartbeat"));
        let counters = net.machine.snapshot().network;
        assert_eq!((counters.connections, counters.errors), (1, 0));
        assert!(counters.frames_in > 200 && counters.frames_out > 200, "{counters:?}");
        net.ends_well();
    }
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let Some(net) = Networked::start(&line(1)) else { return };
    let host = "Host: pulse\r\n\r\n";
    for (request, status) in [
        (format!("GET /nowhere HTTP/1.1\r\n{host}"), "404 Not Found"),
        (format!("GET /memory?pages=x HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (format!("POST / HTTP/1.1\r\n{host}"), "405 Method Not Allowed"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400 Bad Request"),
        ("X".repeat(5_000), "431 Request Header Fields Too Large"),
    ] {
        assert_eq!(ask(&mut Networked::connect(net.http), &request).0, status);
    }
    // Noise of every kind, and connections that are dropped in the middle of it.
    for seed in 1..60u64 {
        let mut stream = Networked::connect(net.http);
        let noise: Vec<u8> = (1..=seed * 40).map(|i| ((i * i * seed) >> 3) as u8).collect();
        // The guest may have closed by then.
        stream.write_all(&noise).ok();
    }
    assert_eq!(ask(&mut Networked::connect(net.http), GET).0, "200 OK");
    net.ends_well();
}

#[test]
fn many_connections_are_served_at_once() {
    let Some(net) = Networked::start(&CommandLine { idle: Idle::Halt, ..line(1) }) else { return };
    let mut streams: Vec<TcpStream> = (0..80).map(|_| Networked::connect(net.http)).collect();
    for round in 1..=3u64 {
        for stream in &mut streams {
            stream.write_all(GET.repeat(2).as_bytes()).unwrap();
        }
        for stream in &mut streams {
            for _ in 0..2 {
                let (status, body) = response(stream);
                assert_eq!((status.as_str(), number(&body, "connections") <= 80), ("200 OK", true));
            }
        }
        assert_eq!(net.machine.snapshot().network.requests, round * 160);
    }
    assert_eq!(net.machine.snapshot().network.connections, 80);
    net.ends_well();
}

#[test]
fn echo_returns_every_byte() {
    let Some(net) = Networked::start(&line(1)) else { return };
    let bytes: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let stream = Networked::connect(net.echo);
    let mut reader = stream.try_clone().unwrap();
    let sender = std::thread::spawn({
        let (mut stream, bytes) = (stream, bytes.clone());
        move || {
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut echoed = Vec::new();
    reader.read_to_end(&mut echoed).unwrap();
    sender.join().unwrap();
    assert_eq!(echoed.len(), bytes.len());
    assert!(echoed == bytes, "first difference at {:?}", echoed.iter().zip(&bytes).position(|(a, b)| a != b));
    net.ends_well();
}

#[test]
fn datagrams_are_echoed() {
    let Some(net) = Networked::start(&CommandLine { idle: Idle::Halt, ..line(1) }) else { return };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(net.datagrams).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 2_000];
    for i in 0..100u16 {
        let datagram = vec![i as u8; usize::from(1 + i * 14)];
        let start = Instant::now();
        // A datagram may be lost on a busy host, so it is sent again.
        loop {
            socket.send(&datagram).unwrap();
            match socket.recv(&mut buffer) {
                Ok(bytes) if buffer[..bytes] == datagram => break,
                // One that was taken for lost before.
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                }
            }
            assert!(start.elapsed() < PATIENCE, "datagram {i} is not echoed");
        }
    }
    assert!(net.machine.snapshot().network.datagrams >= 100);
    net.ends_well();
}

#[test]
fn a_guest_without_a_network_device_says_so_and_runs() {
    let line = CommandLine { network: Some("10.0.2.15/24".parse().unwrap()), ..line(1) };
    let Some(mut machine) = Machine::start(32 * MIB, &line) else { return };
    machine.wait_for_line("no network: net= is given, but no network device among 0 virtio_mmio.device=");
    machine.wait_for_line("pulse: ready after");
    assert_eq!(machine.check().errors, 0);
    assert_eq!(machine.stop(5), 5);

    // One that is there, but speaks the protocol of before virtio 1.
    let devices = ["-device", "virtio-net-device,netdev=n", "-netdev", "user,id=n"].map(str::to_owned);
    let Some(mut machine) = Machine::start_with_devices(32 * MIB, &line, &devices) else { return };
    machine.wait_for_line("is not virtio 1");
    machine.wait_for_line("pulse: ready after");
    assert_eq!(machine.stop(5), 5);
}
