//! The process that holds one VM: where its machine is, what may be done with it, and how the process ends.
//!
//! ```text
//!              receive                          migrate                completed
//!   awaited ────────────► arriving ───► here ───────────► migrating ─────────────► moved
//!                                        ▲                    │
//!                                        └────────────────────┘
//!                                     failed, cancelled: running, or paused as before
//!                                     unknown, interrupted: paused, whole
//! ```
//! The engine runs on a plain thread and has the machine meanwhile; what is asked then is answered by the
//! [`Handles`]. Nothing here knows HTTP: [`crate::api`] does.

mod arrival;
mod balloon;
mod clients;
mod console;
mod end;
mod guest;
mod migration;
mod place;
mod refusal;
mod registry;
mod serve;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Semaphore, watch};

pub use arrival::{Receiver, receive_one};
pub use console::ConsoleLog;
pub use end::End;
pub use migration::{MigrationRequest, MigrationState};
pub use place::{Coming, Facts, Place, Receiving, Standing, Status};
pub use refusal::Refusal;
pub use registry::{Claim, Registry, RegistryError};
pub use serve::serve;

use crate::machine::{Handles, Machine};
use engine::vm::SourceVm;
use migration::Record;

/// How long an answer about the process's size stays good: finding it walks all page tables.
const OVERHEAD_LIFETIME: Duration = Duration::from_secs(2);

/// How many may read guest memory at once, and wait there for a page that is missing.
const GUEST_READERS: usize = 4;

/// One VM's process.
pub struct Daemon {
    inner: Mutex<Inner>,
    /// Told of every change.
    changed: watch::Sender<()>,
    console: Arc<ConsoleLog>,
    started_at: SystemTime,
    guest_readers: Arc<Semaphore>,
}

struct Inner {
    name: String,
    /// The name that the VM would like to have here once it is free.
    wanted_name: Option<String>,
    place: Place,
    facts: Facts,
    handles: Option<Handles>,
    listening: Option<String>,
    migration: Option<Record>,
    /// How it ends as soon as the source knows: the guest ended before its last page had come.
    end_on_arrival: Option<End>,
    /// To be stopped as soon as the engine gives the machine back.
    stop_wanted: bool,
    end: Option<End>,
    overhead: Option<(Instant, u64)>,
}

impl Inner {
    /// Handles on a guest that is here. Memory of one that has not arrived is neither read nor written: what is touched
    /// there would count as what its source has sent.
    fn guest_here(&self) -> Option<&Handles> {
        self.handles.as_ref().filter(|_| !matches!(self.place, Place::Awaited { .. }))
    }
}

impl Daemon {
    /// A process whose machine runs here from the beginning.
    pub fn with_machine(name: &str, machine: Machine, facts: Facts, console: Arc<ConsoleLog>) -> Arc<Daemon> {
        let handles = machine.handles();
        handles.keep_console(console.clone());
        let place = Place::Here { machine, standing: Standing::Running };
        let daemon = Daemon::new(name, place, facts, console);
        daemon.lock().handles = Some(handles.clone());
        daemon.watch_guest(handles);
        daemon
    }

    /// A process that waits for a VM to come to `listening`.
    pub fn awaiting(name: &str, listening: String, console: Arc<ConsoleLog>) -> Arc<Daemon> {
        let daemon = Daemon::new(name, Place::Awaited { coming: None }, Facts::default(), console);
        daemon.lock().listening = Some(listening);
        daemon
    }

    fn new(name: &str, place: Place, facts: Facts, console: Arc<ConsoleLog>) -> Arc<Daemon> {
        Arc::new(Daemon {
            inner: Mutex::new(Inner {
                name: name.to_owned(),
                wanted_name: None,
                place,
                facts,
                handles: None,
                listening: None,
                migration: None,
                end_on_arrival: None,
                stop_wanted: false,
                end: None,
                overhead: None,
            }),
            changed: watch::Sender::new(()),
            console,
            started_at: SystemTime::now(),
            guest_readers: Arc::new(Semaphore::new(GUEST_READERS)),
        })
    }

    /// What the guest wrote to its console.
    pub fn console(&self) -> &Arc<ConsoleLog> {
        &self.console
    }

    /// Permits to read guest memory: whoever does may wait there for a page that never comes.
    pub fn guest_readers(&self) -> Arc<Semaphore> {
        self.guest_readers.clone()
    }

    /// Told of every change of anything here.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The name it goes by on this host.
    pub fn name(&self) -> String {
        self.lock().name.clone()
    }

    /// Everything about the VM that does not need the guest's help.
    pub fn status(&self) -> Status {
        let overhead_bytes = self.overhead_bytes();
        let inner = self.lock();
        Status {
            name: inner.name.clone(),
            kind: inner.facts.kind.clone(),
            status: inner.place.name(inner.facts.is_booting),
            receiving: inner.place.receiving(),
            memory_bytes: inner.facts.memory_bytes,
            vcpus: inner.facts.vcpus,
            pid: std::process::id(),
            image: inner.facts.image.clone(),
            command_line: inner.facts.command_line.clone(),
            listening: inner.listening.clone(),
            started_at: humantime::format_rfc3339_seconds(self.started_at).to_string(),
            overhead_bytes,
        }
    }

    /// Stands the guest still until it is resumed.
    ///
    /// # Errors
    /// If it is not here, or migrating.
    pub fn pause(&self) -> Result<(), Refusal> {
        let name = self.name();
        self.with_machine_here(|machine, standing| match *standing {
            Standing::Running => {
                machine.pause().map_err(Refusal::Machine)?;
                *standing = Standing::Paused;
                Ok(())
            }
            Standing::Paused => Ok(()),
            other => other.refusal(&name, false).map_or(Ok(()), Err),
        })
    }

    /// Lets the guest run on. `force` does so even where it may run elsewhere as well.
    ///
    /// # Errors
    /// If it is not here, migrating, or in doubt and not forced.
    pub fn resume(&self, force: bool) -> Result<(), Refusal> {
        let name = self.name();
        self.with_machine_here(|machine, standing| {
            if let Some(refusal) = standing.refusal(&name, force) {
                return Err(refusal);
            }
            // Does nothing where it runs already.
            machine.resume().map_err(Refusal::Machine)?;
            *standing = Standing::Running;
            Ok(())
        })
    }

    /// Does something with the machine, which waits a moment for one whose last pages are arriving.
    fn with_machine_here<T>(
        &self,
        act: impl FnOnce(&mut Machine, &mut Standing) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut inner = self.lock_when_arrived();
        let name = inner.name.clone();
        let result = match &mut inner.place {
            Place::Here { machine, standing } => act(machine, standing),
            other => Err(other.refusal(&name)),
        };
        drop(inner);
        self.changed.send_replace(());
        result
    }

    /// Whether a guest is here whose last pages are still coming.
    pub(crate) fn is_arriving(&self) -> bool {
        matches!(self.lock().place, Place::Arriving { .. })
    }

    /// Locks once the machine is not just about to be given back by the engine.
    fn lock_when_arrived(&self) -> MutexGuard<'_, Inner> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let begin = Instant::now();
        loop {
            let inner = self.lock();
            if !matches!(inner.place, Place::Arriving { .. }) || begin.elapsed() > PATIENCE {
                return inner;
            }
            drop(inner);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process's size beside guest memory; an older answer while a migration is under way, which it would slow.
    fn overhead_bytes(&self) -> Option<u64> {
        let (cached, handles, is_busy) = {
            let inner = self.lock();
            let is_busy = matches!(inner.place, Place::Migrating { .. } | Place::Arriving { .. });
            (inner.overhead, inner.handles.clone(), is_busy)
        };
        let is_fresh = cached.is_some_and(|(when, _)| is_busy || when.elapsed() < OVERHEAD_LIFETIME);
        if !is_fresh && let Some(bytes) = handles.and_then(|handles| handles.footprint().overhead_bytes()) {
            self.lock().overhead = Some((Instant::now(), bytes));
            return Some(bytes);
        }
        cached.map(|(_, bytes)| bytes)
    }

    /// Changes something and tells whoever waits for a change.
    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one assignment: nothing is half done if a thread panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
