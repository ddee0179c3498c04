//! The probe against a server that can be held still. Nothing here depends on how fast the host is: what is asserted
//! is which requests waited, and at least how long they must have.

mod server;

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use benches::{
    network::{CLIENT_ADDRESS, Network, NetworkConfig, Side},
    probe::{self, MigrationWindow, Probe, ProbeConfig, Recording, now_ns},
    results::ClientReport,
};
use server::Server;

fn config(server: &Server) -> ProbeConfig {
    ProbeConfig {
        http: server.http,
        udp: Some(server.udp),
        stream: Some(server.echo),
        longest: Duration::from_secs(60),
        ..ProbeConfig::of_guest(*server.http.ip())
    }
}

fn a_while() {
    thread::sleep(Duration::from_millis(150));
}

fn report(recording: &Recording, begin_ns: u64, end_ns: u64) -> ClientReport {
    probe::report(recording, &MigrationWindow { begin_ns, switchover_end_ns: end_ns, end_ns }, Some(begin_ns))
}

#[test]
fn a_stall_is_seen_by_every_request_scheduled_in_it_and_none_is_left_out() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let probe = Probe::start(&config(&server)).unwrap();
    a_while();
    // Nothing is answered while the gate is held.
    let gate = server.gate();
    let held_ns = now_ns();
    a_while();
    let released_ns = now_ns();
    drop(gate);
    a_while();
    let recording = probe.finish();

    let is_in = |ns: u64| (held_ns..released_ns).contains(&ns);
    let waited: Vec<_> = recording.requests.iter().filter(|request| is_in(request.scheduled_ns)).collect();
    // The schedule does not wait for answers: as many requests as there are milliseconds, but for the ends.
    let expected = (released_ns - held_ns) / 1_000_000;
    assert!((expected..=expected + 1).contains(&(waited.len() as u64)), "{} of {expected}", waited.len());
    for request in
        waited.iter().chain(&recording.datagrams.iter().filter(|d| is_in(d.scheduled_ns)).collect::<Vec<_>>())
    {
        let answered = request.answered_ns().expect("it is answered when the gate opens");
        // To the microsecond that response times are rounded down to.
        assert!(answered + 1_000 >= released_ns, "{request:?} was answered while nobody answers");
    }
    let scheduled: Vec<u64> = recording.requests.iter().map(|request| request.scheduled_ns).collect();
    assert!(scheduled.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000), "a request was left out");

    let report = report(&recording, held_ns, released_ns);
    assert_eq!((report.requests_lost, report.connections_reset, report.responses_malformed), (0, 0, 0));
    assert_eq!(report.requests_sent, recording.requests.len() as u64);
    let longest = report.longest_response_us.unwrap();
    // The first of them came at most a millisecond after the gate was closed.
    assert!(longest + 1_001 >= (released_ns - held_ns) / 1_000, "{longest}");
    assert!(report.response_us.during.unwrap().max == longest || report.response_us.before.is_some());
    let udp = report.udp.unwrap();
    assert_eq!((udp.lost, udp.duplicated), (0, 0));
    assert_eq!(report.stream_errors, Some(0));
    assert!(report.stream_bytes_checked.unwrap() > 0);
    assert!(report.probe_stalls_us.is_some());
}

#[test]
fn a_broken_connection_is_counted_and_the_schedule_goes_on_over_another() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let probe = Probe::start(&config(&server)).unwrap();
    a_while();
    let broken_ns = now_ns();
    server.break_http();
    let mut seen = server.http_connections();
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen < 2 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
        seen = server.http_connections();
    }
    a_while();
    let recording = probe.finish();
    let report = report(&recording, broken_ns, now_ns());
    assert_eq!(report.connections_reset, 1);
    assert!(report.requests_lost > 0, "those that were due while there was no connection");
    assert!(!recording.requests.last().unwrap().is_lost(), "the new connection answers");
    let scheduled: Vec<u64> = recording.requests.iter().map(|request| request.scheduled_ns).collect();
    assert!(scheduled.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000), "a request was left out");
}

#[test]
fn a_wrong_byte_in_the_stream_is_found() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    let probe = Probe::start(&config(&server)).unwrap();
    a_while();
    server.spoil_a_byte();
    a_while();
    let recording = probe.finish();
    assert_eq!(recording.stream_errors, Some(1));
}

#[test]
fn nobody_there_is_said_with_service_and_address() {
    let server = Server::start(Ipv4Addr::LOCALHOST);
    // A port that was free a moment ago, and that nobody listens on.
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let patience = Duration::from_millis(50);
    let mut http = ProbeConfig { patience, ..config(&server) };
    http.http.set_port(free);
    let error = Probe::start(&http).unwrap_err().to_string();
    assert!(error.contains("HTTP service") && error.contains(&free.to_string()), "{error}");
    let mut udp = ProbeConfig { patience, ..config(&server) };
    udp.udp.as_mut().unwrap().set_port(free);
    let error = Probe::start(&udp).unwrap_err().to_string();
    assert!(error.contains("UDP echo"), "{error}");
}

#[test]
fn the_probe_runs_where_it_is_started() {
    let name = "the_probe_runs_where_it_is_started";
    let network = match Network::up(&NetworkConfig::default()) {
        Ok(network) => network,
        Err(error) => {
            println!("skipped: {name}: {}", engine::report::in_words(&error));
            return;
        }
    };
    // Only the client's namespace has this address.
    let (server, probe) = network
        .in_namespace(Side::Client, || {
            let server = Server::start(CLIENT_ADDRESS);
            let probe = Probe::start(&config(&server)).unwrap();
            (server, probe)
        })
        .unwrap();
    a_while();
    // A new connection is made there, too, though the thread that started the probe is gone.
    server.break_http();
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.http_connections() < 2 {
        assert!(Instant::now() < deadline, "the probe does not come back");
        thread::sleep(Duration::from_millis(5));
    }
    a_while();
    let recording = probe.finish();
    assert!(!recording.requests.last().unwrap().is_lost());
    assert!(recording.datagrams.iter().any(|datagram| !datagram.is_lost()));
}
