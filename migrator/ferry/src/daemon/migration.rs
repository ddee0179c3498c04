//! Moving the VM away.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Daemon, End, Inner, Place, Refusal, Standing};
use crate::machine::Machine;
use engine::{
    options::{Options, Verify},
    progress::{Progress, ProgressSnapshot},
    report::{Outcome, Report, in_words},
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt, MIN_PEER_TIMEOUT},
    vm::{HeldVm, SourceVm},
};

/// How long a process whose VM has moved waits for somebody to fetch the report: on a busy host `ferry migrate` may take
/// seconds to get the processor.
const REPORT_LIFETIME: Duration = Duration::from_secs(10);

/// The same, for one whose guest has ended there.
const ENDED_REPORT_LIFETIME: Duration = Duration::from_millis(1500);

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationRequest {
    /// Where to: `tcp://HOST:PORT` or `unix:///PATH`.
    pub address: String,
    /// Which way.
    pub strategy: Strategy,
    /// The longest downtime that pre-copy may plan for, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_limit_us: Option<u64>,
    /// The most rounds of pre-copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<u32>,
    /// The most that page data may take of the link, in bits a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bandwidth_bits_per_second: Option<u64>,
    /// How long all may take until the handover, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_us: Option<u64>,
    /// How long the destination's host may acknowledge nothing before it counts as gone, in microseconds; at least a
    /// second. 15 s if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_timeout_us: Option<u64>,
    /// When to compare digests of all memory.
    #[serde(default)]
    pub verify: Verify,
}

impl MigrationRequest {
    /// What is asked for can be done at all.
    fn check(&self) -> Result<(), Refusal> {
        let no = [
            (
                self.max_bandwidth_bits_per_second == Some(0),
                "a bandwidth of 0 moves nothing: leave it out for no limit",
            ),
            (
                self.timeout_us == Some(0),
                "a timeout of 0 lets nothing be done: leave it out for as long as it takes",
            ),
            (
                self.downtime_limit_us == Some(0),
                "a downtime limit of 0 cannot be kept: 1000, a millisecond, may be",
            ),
            (self.max_rounds == Some(0), "pre-copy without rounds is stop-and-copy: ask for that strategy"),
            (self.options().peer_timeout < MIN_PEER_TIMEOUT, "the peer timeout must be a second at least"),
        ];
        match no.into_iter().find(|(is_so, _)| *is_so) {
            Some((_, why)) => Err(Refusal::Request(why.to_owned())),
            None => Ok(()),
        }
    }

    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            downtime_limit: self.downtime_limit_us.map_or(default.downtime_limit, Duration::from_micros),
            max_rounds: self.max_rounds.unwrap_or(default.max_rounds),
            max_bandwidth: self.max_bandwidth_bits_per_second,
            timeout: self.timeout_us.map(Duration::from_micros),
            peer_timeout: self.peer_timeout_us.map_or(default.peer_timeout, Duration::from_micros),
            verify: self.verify,
            answer_timeout: default.answer_timeout,
        }
    }
}

/// The last migration, over or not; empty if there was none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MigrationState {
    /// How far it is.
    pub progress: Option<ProgressSnapshot>,
    /// What it cost, once it is over. `docs/report.md` has the schema.
    pub report: Option<Report>,
}

/// What is kept of a migration.
pub(super) struct Record {
    progress: Arc<Progress>,
    report: Option<Report>,
    /// Somebody has seen the report.
    is_fetched: bool,
}

impl Daemon {
    /// Begins to move the VM away. Returns at once.
    ///
    /// # Errors
    /// If the guest is not here, or is being moved already.
    pub fn migrate(self: &Arc<Self>, request: &MigrationRequest) -> Result<(), Refusal> {
        let address: Address = request.address.parse().map_err(|e| Refusal::Request(format!("{e}")))?;
        request.check()?;
        let (strategy, options) = (request.strategy, request.options());
        let interrupt = Interrupt::default();
        let progress = Arc::<Progress>::default();
        let (machine, was) = self.give_to_engine(&interrupt, &progress, &address.to_string())?;
        // A thread that could not be started would take the machine with it, so the machine follows when it runs.
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Machine>(1);
        let daemon = self.clone();
        let engine = move || {
            let Ok(mut machine) = receiver.recv() else { return };
            let connector = address.connector();
            // A mistake in the engine must not cost the guest: its machine is kept, whole and in doubt.
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                let mut held = HeldVm(&mut machine);
                let vm: &mut dyn SourceVm = if was == Standing::Paused { &mut held } else { held.0 };
                migrate(vm, &*connector, strategy, &options, &interrupt, &progress)
            }));
            let report = result.unwrap_or_else(|_| panicked(&mut machine, strategy, &options));
            daemon.migrated(machine, was, report, &address.to_string());
        };
        match thread::Builder::new().name("engine".to_owned()).spawn(engine) {
            Ok(_) => {
                sender.send(machine).ok();
                Ok(())
            }
            Err(error) => {
                self.update(|inner| inner.place = Place::Here { machine, standing: was });
                Err(Refusal::Thread(error))
            }
        }
    }

    /// Calls off the migration under way; how that ends is in its report.
    ///
    /// # Errors
    /// If there is none.
    pub fn cancel(&self) -> Result<(), Refusal> {
        let inner = self.lock();
        if let Some(too_late) = inner.place.past_handover(&inner.name) {
            return Err(too_late);
        }
        match &inner.place {
            Place::Migrating { interrupt, .. } => {
                interrupt.raise();
                Ok(())
            }
            _ => Err(Refusal::NotMigrating { name: inner.name.clone() }),
        }
    }

    /// The last migration, over or not. Once `to_the_end` has seen the report a process whose VM has moved may end; who
    /// only looks how things are does not count, or it would take the report from who waits for it.
    pub fn migration(&self, to_the_end: bool) -> MigrationState {
        let mut inner = self.lock();
        let Some(record) = &mut inner.migration else { return MigrationState::default() };
        record.is_fetched |= to_the_end && record.report.is_some();
        MigrationState { progress: Some(record.progress.snapshot()), report: record.report.clone() }
    }

    /// Whether no report is to come: it is there, or nothing is under way.
    pub fn is_migration_over(&self) -> bool {
        !matches!(self.lock().place, Place::Migrating { .. })
    }

    /// The machine, and whether it runs.
    fn give_to_engine(
        &self,
        interrupt: &Interrupt,
        progress: &Arc<Progress>,
        to: &str,
    ) -> Result<(Machine, Standing), Refusal> {
        let mut inner = self.lock_when_arrived();
        let name = inner.name.clone();
        match &inner.place {
            Place::Here { standing: Standing::Running | Standing::Paused, .. } if inner.end.is_none() => {}
            Place::Here { standing, .. } if inner.end.is_none() => {
                return Err(standing.refusal(&name, false).unwrap_or(Refusal::InDoubt));
            }
            other => return Err(other.refusal(&name)),
        }
        let migrating =
            Place::Migrating { interrupt: interrupt.clone(), progress: progress.clone(), to: to.to_owned() };
        let place = std::mem::replace(&mut inner.place, migrating);
        inner.migration = Some(Record { progress: progress.clone(), report: None, is_fetched: false });
        drop(inner);
        self.changed.send_replace(());
        match place {
            Place::Here { machine, standing } => Ok((machine, standing)),
            other => Err(other.refusal(&name)),
        }
    }

    /// Takes note of how it ended, and keeps or drops the machine accordingly; one that stays is as it `was`.
    fn migrated(&self, machine: Machine, was: Standing, report: Report, to: &str) {
        let standing = match report.outcome {
            Outcome::Completed | Outcome::Ended => None,
            Outcome::Failed | Outcome::Cancelled if report.paused => Some(Standing::Paused),
            Outcome::Failed | Outcome::Cancelled => Some(was),
            Outcome::Unknown => Some(Standing::Unknown),
            Outcome::Interrupted => Some(Standing::Interrupted),
        };
        let mut machine = Some(machine);
        let (end, report_lifetime) = match &report.guest_end {
            // What it was to be is over: nobody needs this process.
            Some(end) => {
                (End::EndedElsewhere { to: to.to_owned(), ending: end.clone() }, ENDED_REPORT_LIFETIME)
            }
            None => (End::Moved { to: to.to_owned() }, REPORT_LIFETIME),
        };
        self.update(|inner| {
            inner.place = match (standing, machine.take()) {
                (Some(standing), Some(machine)) => Place::Here { machine, standing },
                (_, moved) => {
                    machine = moved;
                    Place::Moved { to: to.to_owned() }
                }
            };
            inner.note(report);
        });
        if self.is_stop_due(standing) {
            // What it was to be is over, and a client that waits for it hears how.
            self.await_fetch(ENDED_REPORT_LIFETIME);
            self.finish(End::Stopped);
        }
        if standing.is_none() {
            self.await_fetch(report_lifetime);
            self.finish(end);
            // Only now: giving back a large guest's memory takes a while, and the user waits for the report.
            drop(machine);
        }
    }

    /// Whether its user wanted it stopped meanwhile. What another host may still need is kept, whatever was wanted before.
    fn is_stop_due(&self, standing: Option<Standing>) -> bool {
        self.lock().stop_wanted && matches!(standing, Some(Standing::Running | Standing::Paused))
    }

    fn await_fetch(&self, at_most: Duration) {
        let begin = Instant::now();
        let is_fetched = || self.lock().migration.as_ref().is_some_and(|record| record.is_fetched);
        while !is_fetched() && begin.elapsed() < at_most {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Stands the guest still, wherever the engine was: it may run at the destination.
fn panicked(machine: &mut Machine, strategy: Strategy, options: &Options) -> Report {
    let mut report = Report::new(strategy, &machine.describe(), options);
    report.outcome = Outcome::Unknown;
    report.error = Some("the engine panicked: its log says where".to_owned());
    if let Err(error) = machine.pause() {
        tracing::error!(error = in_words(&error), "the guest runs on here after the engine panicked");
    }
    report
}

impl Inner {
    fn note(&mut self, report: Report) {
        if let Some(record) = &mut self.migration {
            record.report = Some(report);
        }
    }
}

#[cfg(test)]
mod tests;
