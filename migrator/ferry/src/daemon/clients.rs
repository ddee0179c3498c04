//! Who looks at the guest's console and types into it.
//!
//! What a client types is read from its socket only as far as the guest takes it. While the guest takes nothing, from
//! the save of its state on and before it has come, the bytes wait where they are. A client of a guest that has left is
//! told where it runs and what of its typing was not read; then its connection ends.

use std::{io, sync::Arc, time::Duration};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{ConsoleLog, Daemon};

/// How soon a guest that took nothing is offered the same again.
const TYPING_TICK: Duration = Duration::from_millis(10);
/// How soon clients of a migrating guest hear that it has left.
const DEPARTURE_TICK: Duration = Duration::from_millis(20);
/// How long telling a client so may take.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Serves all clients. Each holds a clone of `present` until it was told that its guest has left.
pub(super) async fn serve_clients(daemon: Arc<Daemon>, listener: UnixListener, present: mpsc::Sender<()>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (daemon, present) = (daemon.clone(), present.clone());
                tokio::spawn(async move {
                    attend(&daemon, client).await;
                    drop(present);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a console client could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Waits until no client is left to be told that the guest has left, but not long.
pub(super) async fn await_goodbyes(mut told: mpsc::Receiver<()>) {
    timeout(GOODBYE_TIME, told.recv()).await.ok();
}

async fn attend(daemon: &Daemon, mut client: UnixStream) {
    let mut place = 0;
    let (input, mut output) = client.split();
    let to = tokio::select! {
        to = departure(daemon) => to,
        // A client that has gone has gone.
        _ = show(daemon.console(), &mut place, &mut output) => return,
        never = type_in(daemon, input.as_ref()) => match never {},
    };
    let goodbye = say_goodbye(daemon, client, place, &to);
    // One that does not read does not hear it.
    timeout(GOODBYE_TIME, goodbye).await.ok();
}

/// Where the guest has gone, once it has left.
async fn departure(daemon: &Daemon) -> String {
    let mut changes = daemon.changes();
    loop {
        let (to, is_migrating) = {
            let inner = daemon.lock();
            (inner.place.departed_to().map(ToOwned::to_owned), inner.place.is_migrating())
        };
        if let Some(to) = to {
            return to;
        }
        // The sender lives as long as the daemon. The handover is the engine's, and no change here.
        let changed = changes.changed();
        if is_migrating {
            timeout(DEPARTURE_TICK, changed).await.ok();
        } else {
            changed.await.ok();
        }
    }
}

/// First what was written before, then what is written from now on. `place` is how far the client has it.
async fn show(log: &ConsoleLog, place: &mut u64, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut written = log.written();
    loop {
        written.mark_unchanged();
        show_what_is_there(log, place, output).await?;
        if written.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn show_what_is_there(
    log: &ConsoleLog,
    place: &mut u64,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        let (bytes, end) = log.read_from(*place);
        if bytes.is_empty() {
            return Ok(());
        }
        // This may be dropped while it waits: then nothing was written.
        let count = output.write(&bytes).await?;
        *place = end - (bytes.len() - count) as u64;
    }
}

/// Types what the client sends, for as long as this is awaited: a client that sends no more may look on.
async fn type_in(daemon: &Daemon, client: &UnixStream) -> std::convert::Infallible {
    let mut buffer = [0; 4096];
    loop {
        let peek = || recv(client, &mut buffer[..], RecvFlags::PEEK).map_err(io::Error::from);
        let peeked = match client.readable().await {
            Ok(()) => client.try_io(Interest::READABLE, peek),
            Err(error) => Err(error),
        };
        let count = match peeked {
            Ok((0, _)) => return std::future::pending().await,
            Ok((count, _)) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return std::future::pending().await,
        };
        let taken = daemon.type_in(&buffer[..count]);
        if taken == 0 {
            // It reads slowly, or not now: its user waits, nothing is lost.
            sleep(TYPING_TICK).await;
        } else if recv(client, &mut buffer[..taken], RecvFlags::DONTWAIT).is_err() {
            // It was there a moment ago: to go on would type it twice.
            return std::future::pending().await;
        }
    }
}

/// Tells a client where its guest has gone, and how much of what it typed the guest has not got.
async fn say_goodbye(daemon: &Daemon, mut client: UnixStream, mut place: u64, to: &str) -> io::Result<()> {
    // From here on the client's writes fail, so that what was not read is known to the byte.
    shutdown(&client, Shutdown::Read)?;
    let mut buffer = [0; 4096];
    let mut unread = 0;
    while let Ok((count @ 1.., _)) = recv(&client, &mut buffer[..], RecvFlags::DONTWAIT) {
        unread += count;
    }
    show_what_is_there(daemon.console(), &mut place, &mut client).await?;
    let name = daemon.name();
    let unread = match unread {
        0 => String::new(),
        1 => "; the last byte typed here was not read".to_owned(),
        _ => format!("; the last {unread} bytes typed here were not read"),
    };
    client.write_all(format!("\r\n[ferry: {name} runs at {to} now{unread}]\r\n").as_bytes()).await?;
    client.shutdown().await
}
