//! The limit: what a plain TCP sender and receiver move between two memories, on this host, in this pass.
//!
//! Laid out as a migration is: two processes, the same link (loopback, where there is no network of namespaces) opened in the
//! same way, both memories populated in huge pages, writes and reads of 1 MiB. No engine that copies over one connection can
//! do better by much.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use engine::transport::tcp::connect_to_neighbour;

use super::{LIMIT_RECEIVE, LIMIT_SEND, child::Process};
use crate::{
    host::Piece,
    network::{DESTINATION_ADDRESS, Network, Side},
};

const PIECE: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Moves `bytes` once, and says how many a second that were.
///
/// # Errors
/// If a process cannot do its part.
pub fn measure(bytes: u64, runtime: &Path, network: Option<&Network>) -> Result<u64> {
    let size = bytes.to_string();
    let address = network.map_or(Ipv4Addr::LOCALHOST, |_| DESTINATION_ADDRESS).to_string();
    let place = |side| network.map(|network| (network, side));
    let arguments = [size.clone(), address];
    let mut receiver = Process::start(LIMIT_RECEIVE, &arguments, runtime, place(Side::Destination))?;
    let address = receiver.next_line(PATIENCE)?;
    let mut sender = Process::start(LIMIT_SEND, &[size, address], runtime, place(Side::Source))?;
    let micros: u64 = sender.next_line(PATIENCE)?.parse().context("the limit probe's time")?;
    Ok((bytes as f64 / (micros.max(1) as f64 / 1e6)) as u64)
}

/// Plays a side.
pub fn play(side: Result<()>) -> ExitCode {
    match side {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The receiving side: `BYTES ADDRESS`. Says where it listens, takes them, and answers with one byte.
pub fn receive(arguments: &[String]) -> Result<()> {
    let mut memory = memory(arguments)?;
    let address: Ipv4Addr =
        arguments.get(1).context("an address is missing")?.parse().context("the address")?;
    let listener = TcpListener::bind((address, 0)).with_context(|| format!("listen on {address}"))?;
    println!("{}", listener.local_addr().context("the port")?);
    let (mut link, _) = listener.accept().context("accept the sender")?;
    for piece in memory.bytes().chunks_mut(PIECE) {
        link.read_exact(piece).context("receive")?;
    }
    link.write_all(&[1]).context("answer")
}

/// The sending side: `BYTES ADDRESS:PORT`. Says how many microseconds it took until the answer.
pub fn send(arguments: &[String]) -> Result<()> {
    let mut memory = memory(arguments)?;
    let address = arguments.get(1).context("an address is missing")?;
    let address = address.parse().context("the address")?;
    let mut link = connect_to_neighbour(address).context("connect to the receiver")?;
    link.set_nodelay(true).context("set TCP_NODELAY")?;
    let begin = Instant::now();
    for piece in memory.bytes().chunks(PIECE) {
        link.write_all(piece).context("send")?;
    }
    link.read_exact(&mut [0]).context("wait for the answer")?;
    println!("{}", begin.elapsed().as_micros());
    Ok(())
}

fn memory(arguments: &[String]) -> Result<Piece> {
    let bytes = arguments.first().context("a size is missing")?.parse().context("the size")?;
    Piece::touched(bytes).context("populate memory")
}
