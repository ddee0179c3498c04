//! The switchover: what every strategy ends in.
//!
//! The order is what makes it right. Devices drain and the state is saved *before* the last dirty
//! pages are taken, since both may dirty memory. The destination loads everything and says so
//! *before* the source gives the guest up, since that cannot be undone. And the source gives it up
//! *before* it says Start, since from then on the destination may run it.

use std::time::{Duration, Instant};

use crate::{
    options::Verify,
    pages::{GuestPages, PageNumber, PageRun, PageSet, RunBytes, digest_of},
    progress::Phase,
    protocol::{Along, FrameKind, FromDestination, FromSource, MAX_PAGES_ALONG, Missing, StateMessage},
    source::{Carrying, Control, Duty, MigrateError, Migration, MissingAtSource, send},
    timeline::{Round, Switchover},
    transport::Pace,
    urgent::{Priority, set_priority},
    vm::PausedVm,
};

/// A set of pages, as a strategy names it before the guest stands still.
#[derive(Debug)]
pub enum Portion {
    /// No page.
    Nothing,
    /// All pages.
    Everything,
    /// These, and all that the guest writes until it stands still.
    Dirty(PageSet),
}

impl Portion {
    /// As a set, as far as it is known while the guest runs.
    fn begin(self, page_count: u64) -> Settling {
        match self {
            Portion::Nothing => Settling { pages: PageSet::none(), takes_dirty: false },
            Portion::Everything => Settling { pages: PageSet::all(page_count), takes_dirty: false },
            Portion::Dirty(pages) => Settling { pages, takes_dirty: true },
        }
    }
}

/// A portion whose memory is there before the guest stands still.
struct Settling {
    pages: PageSet,
    takes_dirty: bool,
}

impl Settling {
    /// The pages, now that the guest stands still.
    fn settle(mut self, vm: &mut PausedVm<'_>) -> Result<PageSet, MigrateError> {
        if self.takes_dirty {
            vm.take_dirty(&mut self.pages)?;
        }
        Ok(self.pages)
    }
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

/// The guest runs at the destination.
pub struct Handover {
    pub(crate) missing: Option<MissingAtSource>,
}

/// The stage that ends with the switchover.
const NOW_STAGE: u32 = 0;

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

impl Migration<'_> {
    /// Moves the guest: `now` is in place when it starts at the destination, `missing` follows.
    pub(crate) fn switchover(&mut self, now: Portion, missing: Portion) -> Result<Handover, MigrateError> {
        set_priority(Priority::Urgent);
        self.bulk.wire().set_pace(Pace::Hasty);
        self.vm.before_pause()?;
        let asks_absent = matches!(now, Portion::Everything);
        let (now, missing) = (now.begin(self.page_count), missing.begin(self.page_count));
        self.progress.begin(Phase::Switchover, now.pages.len());
        let mut at_source = MissingAtSource::with_room_for(&missing.pages);
        let sent_before = self.bulk.sent();
        let begin = Instant::now();
        self.timeline.pausing = Some(begin);
        let mut paused_vm = PausedVm::pause(&mut *self.vm)?;
        let paused = Instant::now();
        // Declared after the guest, so dropped before it runs on.
        let mut carrying = Carrying::begin(&mut self.carrier);
        let state = paused_vm.save_state()?;
        let saved = Instant::now();

        let now = now.settle(&mut paused_vm)?;
        let mut missing = missing.settle(&mut paused_vm)?;
        let absent = asks_absent.then(|| self.pages.absent());
        let progress = |sent| self.progress.sent(sent);
        let frozen = FrameKind::FrozenPages;
        let result = self.bulk.send(&*self.pages, now.runs(), absent.as_ref(), frozen, progress);
        self.timeline.final_pages = Some(Round {
            sent: self.bulk.sent().since(sent_before),
            duration: saved.elapsed(),
            dirtied: 0,
            look: None,
        });
        result.map_err(send)?;
        self.bulk.end_stage(NOW_STAGE).map_err(send)?;
        let pages_sent = Instant::now();

        let any_missing = !missing.is_empty();
        let compare_first = self.options.verify == Verify::BeforeStart && !any_missing;
        // SAFETY: the guest is paused.
        let digest = compare_first.then(|| unsafe { digest_of(&*self.pages) });
        let digested = Instant::now();

        let (along, along_bytes) = take_along(&*self.pages, &paused_vm.first_pages(), &mut missing);
        let (missing_runs, console) = (Missing::from_set(&missing), self.console.next());
        let message = StateMessage { state, missing: missing_runs, along, digest, console };
        self.control.send_with(&FromSource::State(message), &along_bytes)?;
        // While the state is on its way: nothing is requested before it is there.
        at_source.begin_serving(&missing, self.server.as_ref());
        let load = match self.control.receive()? {
            FromDestination::Loaded(times) => times,
            other => return Err(MigrateError::unexpected(other)),
        };
        let loaded = Instant::now();

        // What only one side may hold is free before the other is told to take it.
        paused_vm.release()?;

        // The handover. A cancel comes too late from here on.
        self.control.wire().ignore_interrupt();
        self.bulk.ignore_interrupt();
        // It holds for half as long as its answer is waited for, so that the answer comes in time.
        let start = FromSource::Start { valid_ms: (self.options.answer_timeout / 2).as_millis() as u32 };
        let relinquished_vm = paused_vm.relinquish();
        self.duty = Duty::InDoubt;
        self.control.send(&start)?;
        let start_sent = Instant::now();
        carrying.handed_over();
        let start = match answer_to_start(&mut self.control, &start, self.options.answer_timeout)? {
            Ok(start) => start,
            Err(reason) => {
                // A definite no: the guest is this side's again. What came for it is given back before it runs.
                self.duty = Duty::Source;
                carrying.taken_back();
                drop(relinquished_vm.take_back());
                return Err(MigrateError::NotStarted { reason });
            }
        };
        self.duty = Duty::Destination;
        self.control.outlast();
        self.bulk.wire().outlast();
        carrying.announced();
        self.timeline.switchover = Some(Switchover {
            begin,
            paused,
            saved,
            pages_sent,
            digested,
            loaded,
            load,
            start_sent,
            running: Instant::now(),
            start,
            round_trip: self.fixed.round_trip,
        });
        Ok(Handover { missing: any_missing.then_some(at_source) })
    }
}
