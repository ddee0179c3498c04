//! The link for migrations: there, and as fast and as far as it was asked for.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use benches::network::{
    Bandwidth, DESTINATION_ADDRESS, Network, NetworkConfig, NetworkError, SOURCE_ADDRESS, Side,
};

use crate::network;

fn bandwidth(text: &str) -> Option<Bandwidth> {
    Some(text.parse().unwrap())
}

#[test]
fn source_and_destination_speak_tcp_over_a_link_of_their_own() {
    let name = "source_and_destination_speak_tcp_over_a_link_of_their_own";
    let config = NetworkConfig { bandwidth: bandwidth("1Gbit"), ..NetworkConfig::default() };
    let Some(network) = network(name, &config) else { return };
    let listener = network
        .in_namespace(Side::Destination, || TcpListener::bind((DESTINATION_ADDRESS, 0)).unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    let mut near = network.in_namespace(Side::Source, || TcpStream::connect(address).unwrap()).unwrap();
    let (mut far, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), SOURCE_ADDRESS);
    near.write_all(b"over the link").unwrap();
    drop(near);
    let mut heard = String::new();
    far.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "over the link");
    // The client has no business there.
    let stranger = network
        .in_namespace(Side::Client, || TcpStream::connect_timeout(&address, Duration::from_millis(200)));
    assert!(stranger.unwrap().is_err());
}

#[test]
fn the_kernel_shapes_both_directions_as_asked() {
    for text in ["100Mbit", "1Gbit", "10Gbit", "40Gbit"] {
        let config = NetworkConfig { bandwidth: bandwidth(text), ..NetworkConfig::default() };
        let Some(network) = network("the_kernel_shapes_both_directions_as_asked", &config) else { return };
        let expected = bandwidth(text).unwrap().bits_per_second() / 8;
        for side in [Side::Source, Side::Destination] {
            assert_eq!(network.shape(side).unwrap().bytes_per_second, Some(expected), "{text}");
        }
    }
}

#[test]
fn without_a_limit_nothing_is_shaped() {
    let Some(network) = network("without_a_limit_nothing_is_shaped", &NetworkConfig::default()) else {
        return;
    };
    for side in [Side::Source, Side::Destination] {
        let shape = network.shape(side).unwrap();
        assert_eq!((shape.bytes_per_second, shape.delay), (None, Duration::ZERO));
    }
}

#[test]
fn a_delay_is_in_force_or_refused_in_a_sentence() {
    let name = "a_delay_is_in_force_or_refused_in_a_sentence";
    if network(name, &NetworkConfig::default()).is_none() {
        return;
    }
    let delay = Duration::from_millis(20);
    match Network::up(&NetworkConfig { delay, bandwidth: bandwidth("1Gbit") }) {
        Ok(network) => {
            let shape = network.shape(Side::Source).unwrap();
            assert_eq!(shape.delay, delay);
            assert_eq!(shape.bytes_per_second, Some(125_000_000));
        }
        Err(error @ NetworkError::NoDiscipline { .. }) => {
            println!("{error}");
            assert!(error.to_string().contains("netem"), "{error}");
        }
        Err(error) => panic!("{}", engine::report::in_words(&error)),
    }
}

#[test]
fn a_command_runs_where_it_was_sent() {
    let name = "a_command_runs_where_it_was_sent";
    let Some(network) = network(name, &NetworkConfig::default()) else { return };
    let here = fs::read_link("/proc/self/ns/net").unwrap();
    let mut seen = vec![here.to_string_lossy().into_owned()];
    for side in [Side::Source, Side::Destination, Side::Client] {
        let mut command = Command::new("readlink");
        network.enter(side, command.arg("/proc/self/ns/net")).unwrap();
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(said.starts_with("net:["), "{said}");
        assert!(!seen.contains(&said), "{} is another's: {said}", side.name());
        seen.push(said);
    }
    assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), here, "this thread has moved");
}
