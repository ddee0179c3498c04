//! The source's side of a migration.
//!
//! ```text
//!   open ──► rounds ──► switchover ─────────► push ──► complete
//!    │         │          │      ╎ handover     │
//!    └─────────┴──────────┘      ╎              │
//!      the guest runs on here    ╎   in doubt   │  the guest runs there
//! ```
//!
//! Until the handover every failure, and a cancel, leaves the guest running here. Between the word
//! to start it and the answer nobody here can know which side runs: that is [`Outcome::Unknown`],
//! and this side keeps the guest paused and its memory whole.

mod carry;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod open;
mod push;
mod split;
mod switchover;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

pub use error::MigrateError;
pub(crate) use open::Fixed;
pub use split::Budget;
pub use switchover::Handover;

use crate::{
    options::{Options, Verify},
    pages::{Digest, GuestPages, PageSet, PageStream, digest_of},
    progress::{Phase, Progress},
    protocol::{ControlLink, FrameKind, FromDestination, FromSource},
    report::{FaultStatistics, GuestEnd, Outcome, Report},
    strategy::{
        Strategy,
        convergence::{Known, Limits, converges, expected_downtime},
    },
    timeline::{Look, Round, Timeline, micros},
    transport::{Connector, Interrupt},
    urgent::{Priority, at_priority, set_priority},
    vm::{ConsoleToGo, FramesAhead, SourceVm},
};
use carry::{Carrier, Carrying};
use push::{MissingAtSource, PageServer};

/// The control link as the source holds it.
pub(crate) type Control = ControlLink<FromSource, FromDestination>;

/// Whose guest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// This side runs it, or will run it on.
    Source,
    /// The destination was told to run it and has not answered.
    InDoubt,
    /// The destination runs it.
    Destination,
}

/// A migration under way, as the strategies see it.
pub struct Migration<'vm> {
    pub(crate) vm: &'vm mut dyn SourceVm,
    pub(crate) pages: Arc<dyn GuestPages>,
    pub(crate) control: Control,
    pub(crate) bulk: PageStream,
    pub(crate) server: Option<PageServer>,
    pub(crate) carrier: Option<Carrier>,
    pub(crate) console: ConsoleToGo,
    pub(crate) options: Options,
    pub(crate) progress: Arc<Progress>,
    pub(crate) timeline: Timeline,
    pub(crate) fixed: Fixed,
    pub(crate) duty: Duty,
    pub(crate) page_count: u64,
    /// What the guest writes is logged.
    pub(crate) is_logged: bool,
    /// What a look at the log took out of it: dirty still.
    pub(crate) looked_at: PageSet,
    /// When the log was emptied last.
    pub(crate) log_emptied: Instant,
    /// How the rounds went, once one is over.
    pub(crate) known: Option<Known>,
}

/// Moves a guest to where `connector` leads. Returns when the source is free of duty or the migration
/// has failed; what then holds is in the report's outcome.
pub fn migrate(
    vm: &mut dyn SourceVm,
    connector: &dyn Connector,
    strategy: Strategy,
    options: &Options,
    interrupt: &Interrupt,
    progress: &Arc<Progress>,
) -> Report {
    let timeline = Timeline::begin();
    let begin = timeline.begin;
    let deadline = options.timeout.map(|timeout| begin + timeout);
    let interrupt = interrupt.child(deadline);
    let mut report = Report::new(strategy, &vm.describe(), options);
    let _ahead = FramesAhead::of(vm.network());
    let opened = Migration::open(vm, connector, strategy.needs(), options, &interrupt, progress, timeline);
    match opened {
        Ok(mut migration) => {
            let result = strategy.run(&mut migration).and_then(|handover| migration.complete(handover));
            migration.fill(&mut report, result, &interrupt);
        }
        Err(error) => {
            let error = error.by(&interrupt);
            let outcome = match error {
                MigrateError::Cancelled => Outcome::Cancelled,
                _ => Outcome::Failed,
            };
            report.end_in_setup(begin.elapsed());
            report.fail(outcome, error);
            if let Err(error) = vm.resume() {
                report.stays_paused(&error);
            }
        }
    }
    // Also of one that failed before anything was ready: the guest noticed.
    report.rehearsal_us = progress.snapshot().rehearsal_us;
    // The caller's thread, and threads it makes, are as any other again.
    set_priority(Priority::Normal);
    progress.begin(Phase::Ended, 0);
    report
}

impl Migration<'_> {
    /// From here on writes are logged, and every page counts as dirty once.
    pub fn start_dirty_log(&mut self) -> Result<(), MigrateError> {
        self.vm.start_dirty_log()?;
        self.is_logged = true;
        Ok(())
    }

    /// The pages dirtied since this was last asked, which are then not dirty any more. How many
    /// there were goes into the record of the last round.
    pub fn take_dirty(&mut self) -> Result<PageSet, MigrateError> {
        let mut dirty = PageSet::empty(self.page_count);
        self.log_emptied = Instant::now();
        self.vm.take_dirty(&mut dirty)?;
        dirty.union_with(&self.looked_at);
        self.looked_at.clear();
        if let Some(round) = self.timeline.rounds.last_mut() {
            round.dirtied = dirty.len();
            let expected = expected_downtime(&self.timeline.rounds, dirty.len(), &self.limits());
            let rate = self.timeline.rounds.last().map_or(0.0, Round::dirty_rate);
            self.known = Known::of(&self.timeline.rounds, &self.limits());
            let converges = converges(&self.timeline.rounds, dirty.len(), &self.limits());
            self.progress.update(|now| {
                now.converges = converges;
                now.dirty_pages_per_second = rate as u64;
                now.expected_downtime_us = micros(expected);
            });
        }
        Ok(dirty)
    }

    /// Sends pages while the guest runs.
    pub fn send_round(&mut self, dirty: &PageSet) -> Result<(), MigrateError> {
        set_priority(Priority::Rounds);
        let begin = Instant::now();
        let round = self.timeline.rounds.len();
        let count = dirty.len();
        self.progress.begin(Phase::Rounds, count);
        self.progress.update(|now| now.round = round);
        // Only where nearly all pages go is it worth asking which were never written.
        let absent = (count * 2 > self.page_count).then(|| self.pages.absent());
        let (vm, looked_at, emptied) = (&mut *self.vm, &mut self.looked_at, self.log_emptied);
        let (mut look, mut looked) = (None, Ok(()));
        // A guest may write the same pages again and again: the first milliseconds tell how fast.
        let progress = |sent| {
            self.progress.sent(sent);
            if look.is_none() && emptied.elapsed() >= LOOK_AFTER {
                looked = vm.take_dirty(looked_at);
                look = Some(Look { dirtied: looked_at.len(), after: emptied.elapsed() });
            }
        };
        let before = self.bulk.sent();
        let live = FrameKind::LivePages;
        let result = self.bulk.send(&*self.pages, dirty.runs(), absent.as_ref(), live, progress);
        let result = result.and_then(|_| self.bulk.drain());
        let sent = self.bulk.sent().since(before);
        let round = Round { sent, duration: begin.elapsed(), dirtied: 0, look };
        // One that broke off is recorded, too: its bytes were sent.
        self.timeline.rounds.push(round);
        result.map_err(send)?;
        looked?;
        self.progress.update(|now| now.bytes_per_second = round.bandwidth() as u64);
        Ok(())
    }

    /// The rounds made so far.
    pub fn rounds(&self) -> &[Round] {
        &self.timeline.rounds
    }

    /// What a decision about the next round must keep to.
    pub fn limits(&self) -> Limits {
        Limits {
            downtime: self.options.downtime_limit,
            max_rounds: self.options.max_rounds,
            fixed: self.fixed.total(),
            memory_pages: self.page_count,
        }
    }

    /// What follows the handover: push and serve what is missing, until the destination has all.
    fn complete(&mut self, handover: Handover) -> Result<Completion, MigrateError> {
        let server = self.server.take();
        let any_missing = handover.missing.is_some();
        match handover.missing {
            Some(missing) => self.push(missing),
            // The guest has all it needs, and may share a processor with this thread.
            None => set_priority(Priority::Normal),
        }
        let last_word = self.receive_last_word()?;
        if let Some(server) = server {
            server.finish();
        }
        self.timeline.end = Some(Instant::now());
        let (digest, faults) = match last_word {
            LastWord::Complete(digest, faults) => (digest, faults),
            LastWord::Ended(end) => return Ok(Completion::Ended(end)),
        };
        let verified = match self.options.verify {
            Verify::No => None,
            // It was compared before the start, or nothing would run there.
            Verify::BeforeStart if !any_missing => Some(true),
            _ => {
                // SAFETY: the guest was paused at the switchover and given up: it never runs here again.
                let own = || unsafe { digest_of(&*self.pages) };
                self.progress.begin(Phase::Verify, 0);
                thread::sleep(FIRST_MOMENTS);
                Some(digest == Some(at_priority(Priority::Background, own)))
            }
        };
        Ok(Completion::Whole { verified, faults })
    }

    /// Waits until the destination has all it needs.
    fn receive_last_word(&mut self) -> Result<LastWord, MigrateError> {
        loop {
            match self.control.receive()? {
                FromDestination::Complete { digest, faults } => {
                    return Ok(LastWord::Complete(digest, faults.into()));
                }
                FromDestination::Ended(end) => return Ok(LastWord::Ended(end.into())),
                FromDestination::Resend(missing) => self.push_again(&missing)?,
                other => return Err(MigrateError::unexpected(other)),
            }
        }
    }

    fn fill(mut self, report: &mut Report, result: Result<Completion, MigrateError>, interrupt: &Interrupt) {
        self.timeline.end.get_or_insert_with(Instant::now);
        report.record(&self.timeline, &self.fixed, self.bulk.sent(), self.progress.urgent());
        if report.strategy == Strategy::PreCopy {
            report.judge_downtime(&self.timeline.rounds, &self.fixed);
        }
        match result {
            Ok(Completion::Whole { verified, faults }) => report.complete(verified, faults),
            Ok(Completion::Ended(end)) => report.guest_ended(end),
            Err(error) => {
                let error = match error.by(interrupt) {
                    MigrateError::TimedOut { .. } => MigrateError::TimedOut { known: self.known },
                    other => other,
                };
                let outcome = match (self.duty, &error) {
                    (Duty::Source, MigrateError::Cancelled) => Outcome::Cancelled,
                    (Duty::Source, _) => Outcome::Failed,
                    (Duty::InDoubt, _) => Outcome::Unknown,
                    (Duty::Destination, _) => Outcome::Interrupted,
                };
                if self.duty == Duty::Source {
                    self.call_off(&error);
                }
                report.fail(outcome, error);
                // It runs already, unless resuming it failed.
                if self.duty == Duty::Source
                    && let Err(error) = self.vm.resume()
                {
                    report.stays_paused(&error);
                }
            }
        }
        if let Some(carrier) = self.carrier.take() {
            report.moved.network_frames_carried = carrier.finish();
        }
        // Whatever happened, nobody harvests the log any more.
        if let Err(error) = self.vm.stop_dirty_log() {
            tracing::warn!(error = &error as &dyn std::error::Error, "the dirty log stays on");
        }
    }

    /// Tells the destination why nothing more comes. It may be gone: then nobody needs telling.
    fn call_off(&mut self, error: &MigrateError) {
        say_abort(&mut self.control, error);
        self.bulk.wire().hang_up();
    }
}

/// Says why on the control link, and ends it.
fn say_abort(control: &mut Control, error: &MigrateError) {
    control.wire().ignore_interrupt();
    let reason = crate::report::in_words(error);
    control.send(&FromSource::Abort { reason }).ok();
    control.wire().hang_up();
}

/// When a round looks at what the guest has written so far.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// A guest that has just started may run on this very host, as it does where somebody tries a migration: what it feels of
/// its move should not be the comparison that follows.
const FIRST_MOMENTS: Duration = Duration::from_millis(50);

/// What the destination says at the end.
enum LastWord {
    Complete(Option<Digest>, FaultStatistics),
    Ended(GuestEnd),
}

/// What is known once the source is free of duty.
enum Completion {
    /// The guest has all of its memory at the destination.
    Whole { verified: Option<bool>, faults: FaultStatistics },
    /// It ended there before.
    Ended(GuestEnd),
}

/// For `map_err` where pages are sent.
pub(crate) fn send(source: io::Error) -> MigrateError {
    MigrateError::Link { operation: "send pages", source }
}
