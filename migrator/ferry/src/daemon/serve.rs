//! The control side of the process: API, console and signals, until the end.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Claim, Daemon, End, Refusal, RegistryError,
    clients::{await_goodbyes, serve_clients},
};

/// How long a VM that has arrived tries to get its own name, which the source on the same host holds a moment longer.
const NAME_PATIENCE: Duration = Duration::from_secs(10);
/// How often.
const NAME_TICK: Duration = Duration::from_millis(20);
/// How long answers under way may take once the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long the guest's last words may take to whoever is at its console.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Serves a VM's control and console sockets until its process is to end. `take_name` lets a VM that arrives take its own
/// name.
///
/// # Errors
/// If the sockets or signals cannot be set up.
pub fn serve(daemon: &Arc<Daemon>, claim: Claim, take_name: bool) -> io::Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(run(daemon, claim, take_name));
    // A thread that waits for a page which never comes must not keep the process.
    runtime.shutdown_background();
    end
}

async fn run(daemon: &Arc<Daemon>, claim: Claim, take_name: bool) -> io::Result<End> {
    let listener = |from: &std::os::unix::net::UnixListener| {
        from.set_nonblocking(true)?;
        UnixListener::from_std(from.try_clone()?)
    };
    let (control, console) = (listener(&claim.control)?, listener(&claim.console)?);
    stop_on_signals(daemon)?;
    let (present, told) = mpsc::channel(1);
    let clients = tokio::spawn(serve_clients(daemon.clone(), console, present));
    let ended = {
        let daemon = daemon.clone();
        async move { await_end(&daemon).await }
    };
    let api = axum::serve(control, crate::api::router(daemon.clone())).with_graceful_shutdown(async {
        ended.await;
    });
    let api = tokio::spawn(async move { api.await });
    let end = tokio::select! {
        // The claim lives here: its files go when the process is about to.
        end = keep_name(daemon, claim, take_name) => end,
        end = await_end(daemon) => end,
    };
    timeout(LAST_ANSWERS, api).await.ok();
    if matches!(end, End::Moved { .. } | End::EndedElsewhere { .. }) {
        clients.abort();
        await_goodbyes(told).await;
    }
    // A guest's last words are often why it ended.
    sleep(LAST_WORDS).await;
    Ok(end)
}

async fn await_end(daemon: &Daemon) -> End {
    let mut changes = daemon.changes();
    loop {
        if let Some(end) = daemon.end() {
            return end;
        }
        // The sender lives as long as the daemon.
        changes.changed().await.ok();
    }
}

/// Holds the name, and takes the VM's own as soon as one has arrived and its name is free.
async fn keep_name(daemon: &Daemon, mut claim: Claim, take_name: bool) -> End {
    if take_name && let Some(wanted) = await_wanted_name(daemon).await {
        let mut tried_since = Instant::now();
        loop {
            if daemon.is_arriving() {
                // A source on this host keeps the name until its last page has gone, however long that takes.
                tried_since = Instant::now();
            }
            match claim.rename(&wanted) {
                Ok(()) => {
                    daemon.update(|inner| inner.name.clone_from(&wanted));
                    break;
                }
                Err(RegistryError::Taken { .. }) if tried_since.elapsed() < NAME_PATIENCE => {
                    sleep(NAME_TICK).await;
                }
                Err(error) => {
                    tracing::warn!("{error}; here it goes by {}", claim.name());
                    break;
                }
            }
        }
    }
    await_end(daemon).await
}

async fn await_wanted_name(daemon: &Daemon) -> Option<String> {
    let mut changes = daemon.changes();
    loop {
        if let Some(name) = daemon.lock().wanted_name.clone() {
            return Some(name);
        }
        changes.changed().await.ok()?;
    }
}

/// The first signal ends the process in order, a second at once; none does while a guest at a destination needs it.
fn stop_on_signals(daemon: &Arc<Daemon>) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // The terminal was closed.
    let mut hang_up = signal(SignalKind::hangup())?;
    let daemon = daemon.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
        };
        let mut was_asked = false;
        loop {
            next().await;
            match daemon.stop(false) {
                // Another host depends on this process: no number of signals ends it, only a forced stop does.
                Err(Refusal::Moved { .. }) => return daemon.finish(End::Stopped),
                Err(too_late) => {
                    was_asked = false;
                    tracing::warn!("{too_late}");
                }
                Ok(()) if was_asked => return daemon.finish(End::Stopped),
                Ok(()) => was_asked = true,
            }
        }
    });
    Ok(())
}
