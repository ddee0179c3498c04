//! The switchover: what every strategy ends in.
//!
//! The order is what makes it right. Devices drain and the state is saved *before* the last dirty
//! pages are taken, since both may dirty memory. The destination loads everything and says so
//! *before* the source gives the guest up, since that cannot be undone. And the source gives it up
//! *before* it says Start, since from then on the destination may run it.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{
    Budget, Carrying, Control, Duty, MigrateError, Migration, MissingAtSource, PageServer, send, split::split,
};
use crate::{
    options::{Options, Verify},
    pages::{Digest, GuestPages, PageNumber, PageRun, PageSet, PageStream, RunBytes, digest_of},
    progress::{Phase, Progress},
    protocol::{Along, FrameKind, FromDestination, FromSource, MAX_PAGES_ALONG, Missing, StateMessage},
    timeline::{Round, Switchover, Timeline},
    transport::Pace,
    urgent::{Priority, set_priority},
    vm::{ConsoleToGo, PausedVm},
};

/// The guest runs at the destination.
pub struct Handover {
    pub(crate) missing: Option<MissingAtSource>,
}

/// The stage that ends with the switchover.
const NOW_STAGE: u32 = 0;

impl Migration<'_> {
    /// Moves the guest. Of `dirty`, and what it writes until it is paused, `budget` says how much is in place when it
    /// starts at the destination; the rest follows.
    pub(crate) fn switchover(
        &mut self,
        mut dirty: PageSet,
        budget: Budget,
    ) -> Result<Handover, MigrateError> {
        let (room, mut at_source) = self.prepare(&dirty, budget)?;
        let mut quiesced = self.quiesce(&mut dirty)?;
        let (now, missing) = split(dirty, budget, room);
        quiesced.send_now(&now)?;
        let any_missing = !missing.is_empty();
        quiesced.send_state(missing, &mut at_source)?;
        quiesced.hand_over()?.follow_up();
        Ok(Handover { missing: any_missing.then_some(at_source) })
    }

    /// All that can be done before the guest is paused: the memory of all sets is there.
    fn prepare(
        &mut self,
        dirty: &PageSet,
        budget: Budget,
    ) -> Result<(PageSet, MissingAtSource), MigrateError> {
        set_priority(Priority::Urgent);
        self.bulk.wire().set_pace(Pace::Hasty);
        self.vm.before_pause()?;
        self.progress.begin(Phase::Switchover, budget.of(dirty.len()));
        let room = budget.room(self.page_count);
        let at_source = MissingAtSource::with_room_for(if budget == Budget::NONE { dirty } else { &room });
        Ok((room, at_source))
    }

    /// Pauses the guest, saves its state, and adds to `dirty` what was written until then.
    fn quiesce(&mut self, dirty: &mut PageSet) -> Result<Quiesced<'_>, MigrateError> {
        let begin = Instant::now();
        self.timeline.pausing = Some(begin);
        let mut vm = PausedVm::pause(&mut *self.vm)?;
        let paused = Instant::now();
        // Declared after the guest, so dropped before it runs on.
        let carrying = Carrying::begin(&mut self.carrier);
        let state = vm.save_state()?;
        let times = Switchover::begin(begin, paused, self.fixed.round_trip);
        if self.is_logged {
            vm.take_dirty(dirty)?;
        }
        let sending = Sending {
            pages: &*self.pages,
            control: &mut self.control,
            bulk: &mut self.bulk,
            server: self.server.as_ref(),
            console: &mut self.console,
            options: &self.options,
            progress: &self.progress,
            timeline: &mut self.timeline,
            duty: &mut self.duty,
            asks_absent: !self.is_logged,
            times,
        };
        Ok(Quiesced { carrying, vm, state, sending })
    }
}

/// A migration whose guest is paused. An error on the way to the handover lets it run on.
struct Quiesced<'m> {
    /// Declared before the guest, so dropped before it runs on.
    carrying: Carrying<'m>,
    vm: PausedVm<'m>,
    state: Vec<u8>,
    sending: Sending<'m>,
}

/// What the steps work with beside the guest: the fields of [`Migration`] of the same names.
struct Sending<'m> {
    pages: &'m dyn GuestPages,
    control: &'m mut Control,
    bulk: &'m mut PageStream,
    server: Option<&'m PageServer>,
    console: &'m mut ConsoleToGo,
    options: &'m Options,
    progress: &'m Progress,
    timeline: &'m mut Timeline,
    duty: &'m mut Duty,
    /// Pages that were never written are known only by asking: nobody has logged what was.
    asks_absent: bool,
    times: Switchover,
}

impl<'m> Quiesced<'m> {
    /// Sends the pages that are to be in place when the guest starts.
    fn send_now(&mut self, now: &PageSet) -> Result<(), MigrateError> {
        let Sending { pages, bulk, progress, timeline, asks_absent, times, .. } = &mut self.sending;
        let absent = (*asks_absent && !now.is_empty()).then(|| pages.absent());
        let progress = |sent| progress.sent(sent);
        let before = bulk.sent();
        let result = bulk.send(*pages, now.runs(), absent.as_ref(), FrameKind::FrozenPages, progress);
        timeline.final_pages = Some(Round {
            sent: bulk.sent().since(before),
            duration: times.saved.elapsed(),
            dirtied: 0,
            look: None,
        });
        result.map_err(send)?;
        bulk.end_stage(NOW_STAGE).map_err(send)?;
        times.pages_sent = Instant::now();
        Ok(())
    }

    /// Sends the state, and which pages are missing, and waits until all is loaded.
    fn send_state(
        &mut self,
        mut missing: PageSet,
        at_source: &mut MissingAtSource,
    ) -> Result<(), MigrateError> {
        let Sending { pages, control, server, console, options, asks_absent, times, .. } = &mut self.sending;
        let (along, along_bytes) = take_along(*pages, &self.vm.first_pages(), &mut missing);
        // All of memory, or the part of it that came in rounds and until now.
        let is_some_there = missing.is_empty() || !*asks_absent;
        let digest = (options.verify == Verify::BeforeStart && is_some_there)
            .then(|| digest_without(*pages, &missing));
        times.digested = if digest.is_some() { Instant::now() } else { times.pages_sent };

        let (missing_runs, console) = (Missing::from_set(&missing), console.next());
        let state = mem::take(&mut self.state);
        let message = StateMessage { state, missing: missing_runs, along, digest, console };
        control.send_with(&FromSource::State(message), &along_bytes)?;
        // While the state is on its way: nothing is requested before it is there.
        at_source.begin_serving(&missing, *server);
        times.load = match control.receive()? {
            FromDestination::Loaded(load) => load,
            other => return Err(MigrateError::unexpected(other)),
        };
        times.loaded = Instant::now();
        Ok(())
    }

    /// Gives the guest up, and then has the destination start it.
    fn hand_over(mut self) -> Result<HandedOver<'m>, MigrateError> {
        // What only one side may hold is free before the other is told to take it.
        self.vm.release()?;
        let Quiesced { mut carrying, vm, mut sending, .. } = self;
        let Sending { control, bulk, options, duty, times, .. } = &mut sending;

        // The handover. A cancel comes too late from here on.
        control.wire().ignore_interrupt();
        bulk.ignore_interrupt();
        // It holds for half as long as its answer is waited for, so that the answer comes in time.
        let start = FromSource::Start { valid_ms: (options.answer_timeout / 2).as_millis() as u32 };
        let relinquished_vm = vm.relinquish();
        **duty = Duty::InDoubt;
        control.send(&start)?;
        times.start_sent = Instant::now();
        carrying.handed_over();
        match answer_to_start(control, &start, options.answer_timeout)? {
            Ok(start) => times.start = start,
            Err(reason) => {
                // A definite no: the guest is this side's again. What came for it is given back before it runs.
                **duty = Duty::Source;
                carrying.taken_back();
                drop(relinquished_vm.take_back());
                return Err(MigrateError::NotStarted { reason });
            }
        }
        Ok(HandedOver { carrying, sending })
    }
}

/// The guest runs at the destination, which has just said so.
struct HandedOver<'m> {
    carrying: Carrying<'m>,
    sending: Sending<'m>,
}

impl HandedOver<'_> {
    /// No timeout ends a link any more, and what was measured is recorded.
    fn follow_up(mut self) {
        let Sending { control, bulk, timeline, duty, times, .. } = self.sending;
        *duty = Duty::Destination;
        control.outlast();
        bulk.wire().outlast();
        self.carrying.announced();
        timeline.switchover = Some(Switchover { running: Instant::now(), ..times });
    }
}

/// Takes pages out of `missing` to send them along with the state: each would be waited for at once.
fn take_along<'a>(
    pages: &'a dyn GuestPages,
    first: &[PageNumber],
    missing: &mut PageSet,
) -> (Along, Vec<RunBytes<'a>>) {
    let mut along = Along::default();
    let mut places = Vec::with_capacity(first.len());
    for &page in first {
        if along.pages.len() < MAX_PAGES_ALONG && missing.contains(page) {
            missing.remove_run(PageRun::one(page));
            let place = pages.bytes(PageRun::one(page));
            // SAFETY: the guest is paused.
            along.digest.add_any(page, unsafe { place.frozen() });
            along.pages.push(page);
            places.push(place);
        }
    }
    (along, places)
}

/// The digest of all memory but the pages of `missing`. The guest is paused.
fn digest_without(pages: &dyn GuestPages, missing: &PageSet) -> Digest {
    // SAFETY: the guest is paused.
    let mut digest = unsafe { digest_of(pages) };
    // SAFETY: as above.
    missing.runs().for_each(|run| digest.remove_any(run.first, unsafe { pages.bytes(run).frozen() }));
    digest
}

/// Waits for the destination's answer to Start: how long starting took, or why it did not and never will. Confirms the
/// word as long as it holds. An error is no answer: the guest may run there.
fn answer_to_start(
    control: &mut Control,
    start: &FromSource,
    timeout: Duration,
) -> Result<Result<Duration, String>, MigrateError> {
    let given_up_at = Instant::now() + timeout;
    loop {
        match control.receive()? {
            FromDestination::Running { start_us } => return Ok(Ok(Duration::from_micros(start_us))),
            FromDestination::Abort { reason } | FromDestination::Refused { reason } => {
                return Ok(Err(reason));
            }
            FromDestination::Confirm if Instant::now() < given_up_at => control.send(start)?,
            other => return Err(MigrateError::unexpected(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;
    use crate::{
        destination::receive,
        sim::{SimHost, SimVm, SimWorkload},
        strategy::Strategy,
        transport::{Interrupt, memory},
    };

    /// Pages that came in a round stay, and those that are missing are stale at the destination: each split of them must
    /// leave the guest with its own.
    #[test]
    fn a_guest_arrives_whole_by_any_split_of_its_last_dirty_pages() {
        for (seed, budget) in (0..12).flat_map(|seed| [0, 1, 5, 30, 10_000].map(|budget| (seed, budget))) {
            let context = format!("seed {seed} budget {budget}");
            let working_set = 40 + seed % 200;
            let workload = SimWorkload { seed, working_set, rate: None, zero_one_in: 3, network: false };
            let mut source = SimVm::boot("split", 700, workload).unwrap();
            let (connector, mut acceptor) = memory::pair();
            thread::scope(|scope| {
                let receive =
                    move || receive(&mut SimHost::default(), &mut acceptor, &Interrupt::default(), |_, _| ());
                let destination = scope.spawn(receive);
                let (interrupt, progress) = (Interrupt::default(), Arc::default());
                let needs = Strategy::Hybrid.needs();
                let options = Options { verify: Verify::AfterStart, ..Options::default() };
                let timeline = Timeline::begin();
                let mut migration = Migration::open(
                    &mut source,
                    &connector,
                    needs,
                    &options,
                    &interrupt,
                    &progress,
                    timeline,
                )
                .unwrap();
                migration.start_dirty_log().unwrap();
                let all = migration.take_dirty().unwrap();
                migration.send_round(&all).unwrap();
                let dirty = migration.take_dirty().unwrap();
                assert!(dirty.len() > 5, "{context}: too few to split");
                let handover = migration.switchover(dirty.clone(), Budget::pages(budget)).unwrap();
                let now = migration.timeline.final_pages.unwrap().sent.pages;
                assert!(now == budget || budget > dirty.len(), "{context}: {now} were sent");
                assert_eq!(handover.missing.is_some(), budget < dirty.len(), "{context}");
                let completion = migration.complete(handover).unwrap();
                assert!(
                    matches!(completion, crate::source::Completion::Whole { verified: Some(true), .. }),
                    "{context}: digests differ"
                );
                drop(migration);
                let mut arrived = destination.join().unwrap().unwrap().vm;
                arrived.await_first_steps();
                let guest = arrived.check().unwrap();
                assert_eq!(guest.errors, 0, "{context}: page {:?} is lost or stale", guest.first_error);
            });
        }
    }
}
