//! Whatever is sent, the services go on.

use guest_service::smoltcp::socket::tcp::State;
use guest_service::smoltcp::time::Duration;
use guest_service::{ECHO_PORT, HTTP_CONNECTIONS, HTTP_PORT};
use proptest::prelude::*;

use crate::client::{GET, Tcp};
use crate::net::Net;

/// Frames of a whole conversation, from ARP to the last FIN.
fn conversation() -> Vec<Vec<u8>> {
    let mut net = Net::new();
    let mut frames = Vec::new();
    let http = net.connect(HTTP_PORT);
    let echo = net.connect(ECHO_PORT);
    for turn in 0..40 {
        if turn == 10 {
            net.socket(http).send_slice(GET.as_bytes()).unwrap();
            net.socket(echo).send_slice(&[7; 100]).unwrap();
        }
        if turn == 20 {
            net.socket(http).close();
            net.socket(echo).close();
        }
        net.client.poll(net.now, &mut net.client_end, &mut net.sockets);
        frames.extend(net.client_end.outgoing.iter().cloned());
        net.turn();
    }
    assert!(frames.len() > 10);
    frames
}

/// A frame of the conversation, with some bytes changed, cut or grown.
fn mutated(frames: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let which = 0..frames.len();
    let changes = proptest::collection::vec((0usize..80, any::<u8>()), 0..4);
    (which, changes, proptest::option::weighted(0.2, 0usize..90)).prop_map(move |(which, changes, length)| {
        let mut frame = frames[which].clone();
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(length) = length {
            frame.resize(length, 0xa5);
        }
        frame
    })
}

/// After all that, somebody well-behaved is served.
fn serves(net: &mut Net) {
    // Half-open connections that the garbage began time out, and the client's neighbours are found again.
    net.turns(4_000);
    // From another port: what the garbage made the server believe of the old one is the old one's.
    net.next_port = 60_000;
    let tcp = net.connect(HTTP_PORT);
    assert_eq!(net.ask(tcp, GET).0, "200 OK");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn frames_of_noise(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..60)) {
        let mut net = Net::new();
        net.server.incoming.extend(frames);
        serves(&mut net);
    }

    #[test]
    fn frames_almost_right(frames in proptest::collection::vec(mutated(conversation()), 1..200)) {
        let mut net = Net::new();
        for chunk in frames.chunks(7) {
            net.server.incoming.extend(chunk.iter().cloned());
            net.turn();
            net.client_end.incoming.clear();
        }
        serves(&mut net);
    }

    #[test]
    fn streams_of_noise(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..400), 1..20),
        prefix in prop_oneof![Just(""), Just(GET), Just("GET /memory?pages=3 HTTP/1.1\r\nHost: ")],
    ) {
        let mut net = Net::new();
        let tcp = net.connect(HTTP_PORT);
        net.send(tcp, prefix.as_bytes());
        for piece in pieces {
            if net.socket(tcp).can_send() {
                // As much as the window takes: any part of noise is noise.
                net.socket(tcp).send_slice(&piece).unwrap();
            }
            net.turn();
            net.received(tcp);
        }
        net.socket(tcp).close();
        net.until("an end", |net| {
            net.received(tcp);
            matches!(net.state(tcp), State::TimeWait | State::Closed)
        });
        serves(&mut net);
    }
}

#[test]
fn half_open_connections_make_room() {
    let mut net = Net::new();
    let clients: Vec<Tcp> = (0..HTTP_CONNECTIONS).map(|_| net.connect(HTTP_PORT)).collect();
    // ARP goes through, then requests; the answers never arrive.
    for _ in 0..20 {
        net.client.poll(net.now, &mut net.client_end, &mut net.sockets);
        net.server.incoming.append(&mut net.client_end.outgoing);
        net.run_service();
        let arp = net.server.outgoing.drain(..).filter(|frame| frame[12..14] == [8, 6]);
        net.client_end.incoming.extend(arp);
        net.now += Duration::from_millis(1);
    }
    for tcp in clients {
        // Without a word to the server.
        net.sockets.remove(tcp.0);
    }
    let tcp = net.connect(HTTP_PORT);
    assert_eq!(net.ask(tcp, GET).0, "200 OK");
    assert!(net.service.counters().errors > 0);
}

#[test]
fn a_peer_that_never_reads_holds_up_nobody_else() {
    let mut net = Net::new();
    let deaf = net.connect(HTTP_PORT);
    let asked = GET.repeat(2_000);
    let mut sent = 0;
    for _ in 0..3_000 {
        let socket = net.socket(deaf);
        if socket.can_send() {
            sent += socket.send_slice(&asked.as_bytes()[sent..]).unwrap();
        }
        net.turn();
    }
    assert!(sent < asked.len(), "the window closes");
    let tcp = net.connect(HTTP_PORT);
    assert_eq!(net.ask(tcp, GET).0, "200 OK");
}

#[test]
fn a_peer_that_is_told_to_go_and_does_not_is_cut_off() {
    let mut net = Net::new();
    let tcp = net.connect(HTTP_PORT);
    net.send(tcp, b"nonsense\r\n\r\n");
    net.until("cut off", |net| {
        if net.socket(tcp).can_send() {
            net.socket(tcp).send_slice(b"more").unwrap();
        }
        net.received(tcp);
        net.state(tcp) == State::Closed
    });
}
