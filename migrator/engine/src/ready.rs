//! Threads that are ready when they are needed.

use std::{
    io,
    sync::mpsc::channel,
    thread::{Builder, JoinHandle},
};

/// Spawns a thread, and returns when it has prepared what it runs with.
///
/// What is made while the guest stands still is made on its time, and memory that is written for the first time costs
/// most: the host has to find it, and under a hypervisor the host's host as well.
pub(crate) fn spawn_ready<P: 'static, T: Send + 'static>(
    name: &str,
    prepare: impl FnOnce() -> P + Send + 'static,
    run: impl FnOnce(P) -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (ready, is_ready) = channel();
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        let prepared = prepare();
        // Whoever spawned it waits below.
        ready.send(()).ok();
        run(prepared)
    })?;
    // If it is not sent the thread has panicked, and joining it says so.
    is_ready.recv().ok();
    Ok(thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[test]
    fn it_is_prepared_when_it_is_handed_out() {
        let prepared = Arc::new(AtomicBool::new(false));
        let prepares = prepared.clone();
        let thread = spawn_ready("ready", move || prepares.store(true, Ordering::Release), |()| 7).unwrap();
        assert!(prepared.load(Ordering::Acquire));
        assert_eq!(thread.join().unwrap(), 7);
    }

    #[test]
    fn one_that_panics_is_not_waited_for() {
        let thread = spawn_ready("panics", || panic!("on purpose"), |()| ()).unwrap();
        assert!(thread.join().is_err());
    }
}
