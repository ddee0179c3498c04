//! Many at once, and more than there are sockets for.

use guest_service::smoltcp::socket::tcp::State;
use guest_service::smoltcp::socket::udp;
use guest_service::{ECHO_CONNECTIONS, ECHO_PORT, HTTP_CONNECTIONS, HTTP_PORT};

use crate::client::{GET, Tcp};
use crate::net::{Net, SERVER, leak_bytes};

#[test]
fn as_many_connections_as_promised_are_served_at_once() {
    let mut net = Net::new();
    let http: Vec<Tcp> = (0..HTTP_CONNECTIONS).map(|_| net.connect(HTTP_PORT)).collect();
    let echo: Vec<Tcp> = (0..ECHO_CONNECTIONS).map(|_| net.connect(ECHO_PORT)).collect();
    net.until("all are connected", |net| {
        http.iter().chain(&echo).all(|tcp| net.state(*tcp) == State::Established)
    });
    for round in 0..3u8 {
        for tcp in &http {
            net.send(*tcp, format!("GET /memory?pages=5 HTTP/1.1\r\nHost: a\r\n\r\n{GET}").as_bytes());
        }
        for (i, tcp) in echo.iter().enumerate() {
            net.send(*tcp, &[round, i as u8, 3]);
        }
        for tcp in &http {
            let responses = net.responses(*tcp, 2);
            assert!(responses.iter().all(|(status, _)| status == "200 OK"), "{responses:?}");
        }
        for (i, tcp) in echo.iter().enumerate() {
            net.until("an echo", |net| net.socket(*tcp).recv_queue() == 3);
            assert_eq!(net.received(*tcp), [round, i as u8, 3]);
        }
    }
    assert_eq!(net.guest.touched, 3 * 5 * HTTP_CONNECTIONS as u64);
    assert_eq!(net.service.counters().connections, (HTTP_CONNECTIONS + ECHO_CONNECTIONS) as u64);
}

#[test]
fn a_burst_of_more_than_there_are_sockets_waits_and_is_served() {
    let mut net = Net::new();
    let mut waiting: Vec<Tcp> = (0..2 * HTTP_CONNECTIONS).map(|_| net.connect(HTTP_PORT)).collect();
    while !waiting.is_empty() {
        net.turn();
        waiting.retain(|tcp| {
            // Not one is refused: those without a socket try again.
            assert!(matches!(net.state(*tcp), State::SynSent | State::Established), "{:?}", net.state(*tcp));
            let is_connected = net.state(*tcp) == State::Established;
            if is_connected {
                assert_eq!(net.ask(*tcp, GET).0, "200 OK");
                net.socket(*tcp).close();
            }
            !is_connected
        });
    }
    assert_eq!(net.service.counters().connections, 2 * HTTP_CONNECTIONS as u64);
}

/// After a long pause the frames of some seconds come at once, more than any buffer here holds, and requests beside them.
#[test]
fn datagrams_of_a_long_pause_all_come_back() {
    const COUNT: u64 = 4_000;
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    assert_eq!(net.ask(tcp, GET).0, "200 OK");
    let metadata = || Box::leak(vec![udp::PacketMetadata::EMPTY; COUNT as usize].into_boxed_slice());
    let buffer = || udp::PacketBuffer::new(metadata(), leak_bytes(COUNT as usize * 32));
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5_000).unwrap();
    for number in 0..COUNT {
        let datagram = [number.to_be_bytes(); 4].concat();
        socket.send_slice(&datagram, (SERVER, ECHO_PORT)).unwrap();
    }
    let datagrams = net.sockets.add(socket);
    net.send(tcp, GET.repeat(200).as_bytes());
    assert_eq!(net.responses(tcp, 200).len(), 200);
    net.turns(COUNT as usize);
    let socket = net.sockets.get_mut::<udp::Socket<'_>>(datagrams);
    let number = |datagram: &[u8]| u64::from_be_bytes(datagram[..8].try_into().unwrap());
    let back: Vec<u64> =
        std::iter::from_fn(|| socket.recv().ok().map(|(datagram, _)| number(datagram))).collect();
    assert!(back.iter().copied().eq(0..COUNT), "{} of {COUNT} came back", back.len());
}

#[test]
fn sockets_are_used_again_whoever_closes() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    for i in 0..300 {
        if i % 3 == 0 {
            // The server closes first.
            let (status, _) = net.ask(tcp, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert_eq!(status, "200 OK");
            net.until("closed", |net| net.is_closed_by_server(tcp));
            net.socket(tcp).close();
        } else if i % 3 == 1 {
            assert_eq!(net.ask(tcp, GET).0, "200 OK");
            net.socket(tcp).close();
        } else {
            assert_eq!(net.ask(tcp, GET).0, "200 OK");
            net.socket(tcp).abort();
        }
        net.until("gone", |net| matches!(net.state(tcp), State::TimeWait | State::Closed));
        net.reconnect(tcp, HTTP_PORT);
        net.until("connected", |net| net.state(tcp) == State::Established);
    }
    assert_eq!(net.service.counters().errors, 0);
}

#[test]
fn who_hoards_connections_makes_room_for_who_wants_one() {
    let mut net = Net::new();
    let hoarded: Vec<Tcp> = (0..HTTP_CONNECTIONS).map(|_| net.connect(HTTP_PORT)).collect();
    net.until("all are connected", |net| hoarded.iter().all(|tcp| net.state(*tcp) == State::Established));
    net.turns(9_000);
    // One is in good use, and one sends just enough to look alive.
    assert_eq!(net.ask(hoarded[0], GET).0, "200 OK");
    net.send(hoarded[1], b"G");
    net.turns(3_000);
    let tcp = net.connect(HTTP_PORT);
    assert_eq!(net.ask(tcp, GET).0, "200 OK");
    assert_eq!(net.state(hoarded[0]), State::Established);
    let closed = hoarded.iter().filter(|tcp| net.state(**tcp) != State::Established).count();
    assert_eq!(closed, 1);
}

#[test]
fn a_peer_that_is_gone_gives_its_socket_back() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    net.ask(tcp, GET);
    let mut slots = Vec::new();
    // Its frames are lost from here on; keep-alive finds out.
    for _ in 0..80_000 {
        net.run_service();
        slots.extend(net.server.outgoing.drain(..).map(|frame| frame.len()));
        net.now += guest_service::smoltcp::time::Duration::from_millis(1);
    }
    assert!((3..60).contains(&slots.len()), "{} frames into the void", slots.len());
    let late: Vec<Tcp> = (0..HTTP_CONNECTIONS).map(|_| net.connect(HTTP_PORT)).collect();
    net.until("all are connected", |net| late.iter().all(|tcp| net.state(*tcp) == State::Established));
}
