//! A guest is found wherever it is.

use std::{
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use benches::network::{CLIENT_ADDRESS, GUEST_ADDRESS, Network, NetworkConfig, Side};

use crate::{fake_guest::FakeGuest, network};

/// How long a datagram is waited for; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

fn client(network: &Network) -> UdpSocket {
    let socket = network.in_namespace(Side::Client, || UdpSocket::bind((CLIENT_ADDRESS, 0)).unwrap());
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((GUEST_ADDRESS, 7)).unwrap();
    socket
}

fn echo(socket: &UdpSocket, words: &[u8]) {
    socket.send(words).unwrap();
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], words);
}

#[test]
fn entry_28_links_of_every_engine_have_the_same_congestion_control() {
    let name = "entry_28_links_of_every_engine_have_the_same_congestion_control";
    let Some(network) = network(name, &NetworkConfig::default()) else { return };
    let said = network.congestion_control().expect("the kernel tells").to_owned();
    for side in [Side::Source, Side::Destination] {
        // As an engine has it that asks for none.
        let socket = network.in_namespace(side, || TcpListener::bind(("127.0.0.1", 0)).unwrap()).unwrap();
        let has = rustix::net::sockopt::tcp_congestion(&socket).unwrap();
        assert_eq!(has, said, "{side:?}");
        assert!(["cubic", "reno"].contains(&&*has), "{side:?}: {has}");
    }
}

#[test]
fn the_client_reaches_a_guest_on_either_side() {
    for side in [Side::Source, Side::Destination] {
        let name = "the_client_reaches_a_guest_on_either_side";
        let Some(network) = network(name, &NetworkConfig::default()) else { return };
        let guest = FakeGuest::attach(&network, side, true);
        let client = client(&network);
        for i in 0..100_u8 {
            echo(&client, &[i; 16]);
        }
        assert_eq!(guest.echoed(), 100, "{}", side.name());
    }
}

#[test]
fn one_frame_from_its_new_place_and_the_guest_is_found_there() {
    let name = "one_frame_from_its_new_place_and_the_guest_is_found_there";
    let Some(network) = network(name, &NetworkConfig::default()) else { return };
    let mut at_source = FakeGuest::attach(&network, Side::Source, true);
    // Attached, and silent: the bridges have no reason yet to look for the guest here.
    let mut at_destination = FakeGuest::attach(&network, Side::Destination, false);
    let client = client(&network);
    (0..10).for_each(|i| echo(&client, &[i; 16]));
    let before = (at_source.echoed(), at_destination.echoed());
    assert_eq!(before.0, 10);

    // Both still listen, so only what the bridges learned decides.
    at_destination.take_over(&at_source);
    (0..50).for_each(|i| echo(&client, &[i; 16]));
    assert_eq!((at_source.echoed(), at_destination.echoed()), (before.0, before.1 + 50));

    // And back: A to B to A.
    at_source.take_over(&at_destination);
    (0..50).for_each(|i| echo(&client, &[i; 16]));
    assert_eq!((at_source.echoed(), at_destination.echoed()), (before.0 + 50, before.1 + 50));
}

#[test]
fn a_tap_can_be_attached_to_again_and_again() {
    let name = "a_tap_can_be_attached_to_again_and_again";
    let Some(network) = network(name, &NetworkConfig::default()) else { return };
    let client = client(&network);
    for _ in 0..3 {
        let guest = FakeGuest::attach(&network, Side::Source, true);
        echo(&client, b"again");
        assert_eq!(guest.echoed(), 1);
    }
}
