//! The switchover: what every strategy ends in.
//!
//! The order is what makes it right. Devices drain and the state is saved *before* the last dirty
//! pages are taken, since both may dirty memory. The destination loads everything and says so
//! *before* the source gives the guest up, since that cannot be undone. And the source gives it up
//! *before* it says Start, since from then on the destination may run it.

use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;

use crate::{
    options::Verify,
    pages::{GuestPages, PageNumber, PageRun, PageSet, digest_of},
    progress::Phase,
    protocol::{FrameKind, FromDestination, FromSource, MAX_PAGES_ALONG, Missing, StateMessage},
    source::{Carrying, Duty, MigrateError, Migration, MissingAtSource, send},
    timeline::Switchover,
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
    /// The pages, now that the guest stands still.
    fn settle(self, vm: &mut PausedVm<'_>, page_count: u64) -> Result<PageSet, MigrateError> {
        match self {
            Portion::Nothing => Ok(PageSet::empty(page_count)),
            Portion::Everything => Ok(PageSet::all(page_count)),
            Portion::Dirty(mut pages) => {
                vm.take_dirty(&mut pages)?;
                Ok(pages)
            }
        }
    }
}

/// The guest runs at the destination.
pub struct Handover {
    pub(crate) missing: Option<MissingAtSource>,
    pub(crate) any_missing: bool,
}

/// The stage that ends with the switchover.
const NOW_STAGE: u32 = 0;

/// Takes pages out of `missing` to send them along with the state: each would be waited for at once.
fn take_along(
    pages: &dyn GuestPages,
    first: &[PageNumber],
    missing: &mut PageSet,
) -> Vec<(PageNumber, ByteBuf)> {
    let mut along = Vec::new();
    for &page in first {
        if along.len() < MAX_PAGES_ALONG && missing.contains(page) {
            missing.remove_run(PageRun::one(page));
            // SAFETY: the guest is paused.
            along.push((page, unsafe { pages.bytes(PageRun::one(page)).frozen() }.to_vec().into()));
        }
    }
    along
}

impl Migration<'_> {
    /// Moves the guest: `now` is in place when it starts at the destination, `missing` follows.
    pub(crate) fn switchover(&mut self, now: Portion, missing: Portion) -> Result<Handover, MigrateError> {
        self.progress.update(|progress| progress.phase = Phase::Switchover);
        set_priority(Priority::Urgent);
        self.vm.before_pause()?;
        let asks_absent = matches!(now, Portion::Everything);
        let begin = Instant::now();
        let mut paused_vm = PausedVm::pause(&mut *self.vm)?;
        let paused = Instant::now();
        // Declared after the guest, so dropped before it runs on.
        let mut carrying = Carrying::begin(&mut self.carrier);
        let state = paused_vm.save_state()?;
        let saved = Instant::now();

        let now = now.settle(&mut paused_vm, self.page_count)?;
        let mut missing = missing.settle(&mut paused_vm, self.page_count)?;
        let absent = asks_absent.then(|| self.pages.absent());
        let progress = |pages| self.progress.sent(pages);
        self.bulk
            .send(&*self.pages, now.runs(), absent.as_ref(), FrameKind::FrozenPages, progress)
            .map_err(send)?;
        self.bulk.end_stage(NOW_STAGE).map_err(send)?;
        let pages_sent = Instant::now();

        let any_missing = !missing.is_empty();
        let compare_first = self.options.verify == Verify::BeforeStart && !any_missing;
        // SAFETY: the guest is paused.
        let digest = compare_first.then(|| unsafe { digest_of(&*self.pages) });
        let digested = Instant::now();

        let along = take_along(&*self.pages, &paused_vm.first_pages(), &mut missing);
        let missing_message = Missing::from_set(&missing);
        self.control.send(&FromSource::State(StateMessage {
            state,
            missing: missing_message,
            along,
            digest,
        }))?;
        // While the state is on its way: nothing is requested before it is there.
        let missing = any_missing.then(|| MissingAtSource::begin_serving(missing, self.server.as_ref()));
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
        paused_vm.relinquish();
        self.duty = Duty::InDoubt;
        self.control.send(&FromSource::Start)?;
        let start_sent = Instant::now();
        carrying.handed_over();
        let start = match self.control.receive()? {
            FromDestination::Running { start_us } => Duration::from_micros(start_us),
            other => return Err(MigrateError::unexpected(other)),
        };
        self.duty = Duty::Destination;
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
        Ok(Handover { missing, any_missing })
    }
}
