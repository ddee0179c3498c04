//! What the services answer.

use guest_service::smoltcp::socket::tcp::State;
use guest_service::smoltcp::socket::udp;
use guest_service::{ECHO_PORT, HTTP_PORT};

use crate::client::GET;
use crate::net::{Net, SERVER, leak, leak_bytes};

#[test]
fn a_connection_is_kept_and_answers_in_order() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    let (status, body) = net.ask(tcp, GET);
    assert_eq!(status, "200 OK");
    assert!(
        body.starts_with(
            "{\"guest\":\"pulse\",\"uptime_us\":1,\"heartbeat\":2,\"vcpus\":3,\"pages_written\":4,"
        ),
        "{body}"
    );
    assert!(body.contains("\"working_set_pages\":100,\"errors\":5,\"network\":{\"frames_in\":"), "{body}");
    assert!(body.contains("\"connections\":1,\"requests\":0,\"datagrams\":0,\"errors\":0}}\n"), "{body}");

    // Pipelined, the slow one first.
    let pipelined = format!(
        "GET /memory?pages=40 HTTP/1.1\r\nHost: a\r\n\r\n{GET}GET /x HTTP/1.1\r\nHost: a\r\n\r\n{GET}"
    );
    net.send(tcp, pipelined.as_bytes());
    let responses = net.responses(tcp, 4);
    let statuses: Vec<_> = responses.iter().map(|(status, _)| status.as_str()).collect();
    assert_eq!(statuses, ["200 OK", "200 OK", "404 Not Found", "200 OK"]);
    assert!(responses[0].1.starts_with("{\"pages\":40,\"errors\":1,\"duration_us\":"), "{responses:?}");
    assert_eq!(net.guest.touched, 40);
    assert_eq!(net.state(tcp), State::Established);
    assert_eq!(net.service.counters().requests, 5);
}

#[test]
fn a_hundred_pipelined_requests_are_answered() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    net.send(tcp, GET.repeat(100).as_bytes());
    assert_eq!(net.responses(tcp, 100).len(), 100);
}

#[test]
fn a_request_in_single_bytes_is_answered() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    for byte in GET.bytes() {
        net.send(tcp, &[byte]);
        net.turn();
    }
    assert_eq!(net.responses(tcp, 1)[0].0, "200 OK");
}

#[test]
fn what_cannot_be_answered_is_refused_and_closed() {
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "413 Content Too Large"),
        ("nonsense\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"),
        (&"A".repeat(3_000), "431 Request Header Fields Too Large"),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.0\r\n\r\n", "200 OK"),
    ] {
        let mut net = Net::new();
        let tcp = net.connect(HTTP_PORT);
        assert_eq!(net.ask(tcp, request).0, status);
        net.until("closed", |net| net.is_closed_by_server(tcp));
        net.socket(tcp).close();
        net.until("gone", |net| net.state(tcp) == State::Closed);
    }
}

#[test]
fn errors_that_leave_the_connection_sound_keep_it() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    for (request, status) in [
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        ("GET /memory?pages=0 HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "405 Method Not Allowed"),
        (GET, "200 OK"),
    ] {
        assert_eq!(net.ask(tcp, request).0, status);
    }
    net.guest.has_no_pages = true;
    assert_eq!(net.ask(tcp, "GET /memory?pages=1 HTTP/1.1\r\nHost: a\r\n\r\n").0, "409 Conflict");
    assert_eq!(net.guest.touched, 0);
    assert_eq!(net.service.counters().errors, 4);
}

#[test]
fn a_peer_that_closes_first_gets_its_answer() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    net.send(tcp, b"GET /memory?pages=9 HTTP/1.1\r\nHost: a\r\n\r\n");
    net.socket(tcp).close();
    assert_eq!(net.responses(tcp, 1)[0].0, "200 OK");
    net.until("gone", |net| matches!(net.state(tcp), State::TimeWait | State::Closed));
}

#[test]
fn echo_returns_every_byte() {
    let mut net = Net::new();
    let tcp = net.connect(ECHO_PORT);
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (mut sent, mut echoed) = (0, Vec::new());
    net.until("all is echoed", |net| {
        let socket = net.socket(tcp);
        if socket.may_send() && sent < bytes.len() {
            sent += socket.send_slice(&bytes[sent..]).unwrap();
        }
        echoed.extend(net.received(tcp));
        echoed.len() >= bytes.len()
    });
    assert!(echoed == bytes);
    net.socket(tcp).close();
    net.until("closed by both", |net| net.state(tcp) == State::TimeWait);
}

#[test]
fn datagrams_are_echoed_but_not_to_another_echo_service() {
    let mut net = Net::new();
    let mut handles = Vec::new();
    for port in [5_000, ECHO_PORT] {
        let buffer =
            || udp::PacketBuffer::new(&mut leak([udp::PacketMetadata::EMPTY; 40])[..], leak_bytes(64 << 10));
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        handles.push(net.sockets.add(socket));
    }
    for i in 0..40u8 {
        for handle in &handles {
            let socket = net.sockets.get_mut::<udp::Socket<'_>>(*handle);
            socket.send_slice(&vec![i; 1 + usize::from(i) * 30], (SERVER, ECHO_PORT)).unwrap();
        }
        net.turn();
    }
    net.turns(5);
    for i in 0..40u8 {
        let socket = net.sockets.get_mut::<udp::Socket<'_>>(handles[0]);
        assert_eq!(socket.recv().unwrap().0, vec![i; 1 + usize::from(i) * 30]);
    }
    assert!(!net.sockets.get_mut::<udp::Socket<'_>>(handles[1]).can_recv());
    assert_eq!((net.service.counters().datagrams, net.service.counters().errors), (40, 40));
}

#[test]
fn nothing_is_done_while_nothing_comes() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    net.ask(tcp, GET);
    // The answer's acknowledgement, and a look at the connection now and then.
    net.turns(30);
    net.service.wake();
    let mut steps = 0;
    for _ in 0..1_000 {
        while net.service.step(&mut net.server, net.now, &mut net.guest) {
            steps += 1;
        }
        net.now += guest_service::smoltcp::time::Duration::from_millis(1);
    }
    assert!(steps < 10, "{steps} steps in a second of silence");
}
