//! Missing pages as they arrive: each is installed once, whichever link brought it.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use thiserror::Error;

use crate::{
    pages::{
        Claims, Digest, GuestPages, PAGE_SIZE, PageNumber, PageRun, PageSet, RunBytes, SinkError,
        check_digest, receive_hashed, receive_payload,
    },
    protocol::{Along, Frame, FrameKind, Missing},
    transport::Wire,
    vm::{MissingPages, VmError},
};

/// The most runs of pages that are asked for at once: a message of less than a megabyte.
const MAX_RESENT_RUNS: usize = 50_000;

/// What is missing will not come.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("missing pages will not come")]
pub(super) struct Stopped;

/// What is still missing, shared by all threads that install pages.
pub(super) struct Arrivals {
    expected: PageSet,
    claims: Claims,
    remaining: AtomicU64,
    digest: AtomicU64,
    keep_digest: bool,
    /// Frames that the push has brought.
    pushed_frames: AtomicU64,
    /// As the state says, for the thread that vCPUs wait for: it takes no lock.
    is_bulk_lost: AtomicBool,
    is_bulk_open: AtomicBool,
    state: Mutex<(State, Links)>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Pages are missing, and the guest has not started.
    Loading,
    /// Pages are missing, and the guest runs.
    Running,
    /// Nothing is missing.
    Complete,
    /// Pages are missing and will not come.
    Stopped,
}

/// What is known of the two links that bring pages.
#[derive(Clone, Copy, Default)]
struct Links {
    bulk: Bulk,
    urgent_failed: bool,
}

/// What is known of the bulk link.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Bulk {
    /// Pages are pushed.
    #[default]
    Open,
    /// All were.
    Ended,
    /// It brings nothing more, though not all came.
    Lost,
}

impl Arrivals {
    /// None as yet, with room for those that `room` has.
    pub fn none(room: PageSet) -> Arrivals {
        Arrivals {
            claims: Claims::new(&room),
            expected: room,
            remaining: AtomicU64::new(0),
            digest: AtomicU64::new(0),
            keep_digest: false,
            pushed_frames: AtomicU64::new(0),
            is_bulk_lost: AtomicBool::new(false),
            is_bulk_open: AtomicBool::new(true),
            state: Mutex::new((State::Complete, Links::default())),
            changed: Condvar::new(),
        }
    }

    /// `missing` is to arrive; `landed` is the digest of what is there already, if it is to be kept. `None` if those
    /// are not the guest's pages.
    pub fn expect(&mut self, missing: &Missing, landed: Option<Digest>) -> Option<()> {
        missing.put_into(&mut self.expected)?;
        self.claims.begin_again(&self.expected);
        let remaining = self.expected.len();
        self.remaining = AtomicU64::new(remaining);
        self.digest = AtomicU64::new(landed.unwrap_or_default().0);
        self.keep_digest = landed.is_some();
        let state = if remaining == 0 { State::Complete } else { State::Loading };
        self.state = Mutex::new((state, Links::default()));
        Some(())
    }

    /// Whether the page is one that the source will send.
    pub fn is_expected(&self, page: PageNumber) -> bool {
        self.expected.contains(page)
    }

    /// How many pages have not come.
    pub fn remaining(&self) -> u64 {
        self.remaining.load(Ordering::Acquire)
    }

    /// The digest of all that is there, if it was kept.
    pub fn digest(&self) -> Option<Digest> {
        self.keep_digest.then(|| Digest(self.digest.load(Ordering::Acquire)))
    }

    /// The guest is about to start, unless it is known already that its pages will not come.
    pub fn begin_running(&self) -> Result<(), Stopped> {
        let state = &mut self.lock().0;
        match *state {
            State::Loading => *state = State::Running,
            State::Running | State::Complete => {}
            State::Stopped => return Err(Stopped),
        }
        Ok(())
    }

    /// Waits for a moment, or until all is there or known not to come. Returns whether there is more to wait for.
    pub fn wait(&self, at_most: Duration) -> bool {
        let waits = |(state, _): &mut (State, Links)| matches!(state, State::Loading | State::Running);
        // Poisoned or not, the state is one word.
        let waited = self.changed.wait_timeout_while(self.lock(), at_most, waits);
        waited.is_ok_and(|(_, result)| result.timed_out())
    }

    /// Which pages have not come, if the link that page faults are served over is lost and the push is over: they are to
    /// be pushed again. Says so once a push.
    pub fn take_lost(&self) -> Option<Missing> {
        let mut state = self.lock();
        let (State::Running, Links { bulk: Bulk::Ended, urgent_failed: true }) = *state else { return None };
        state.1.bulk = Bulk::Open;
        self.is_bulk_open.store(true, Ordering::Relaxed);
        let mut lost = Missing::from_set(&self.claims.unclaimed());
        if let Missing::Runs(runs) = &mut lost {
            // What does not go into one message is named after that.
            runs.truncate(MAX_RESENT_RUNS);
        }
        Some(lost)
    }

    /// The push has brought a frame.
    pub fn count_pushed_frame(&self) {
        self.pushed_frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Frames that the push has brought, and whether more are to come.
    pub fn push(&self) -> (u64, bool) {
        (self.pushed_frames.load(Ordering::Relaxed), self.is_bulk_open.load(Ordering::Relaxed))
    }

    /// Which pages are to be requested, since the link that pushes them is lost, or has brought damaged ones.
    pub fn is_rest_to_request(&self) -> bool {
        self.is_bulk_lost.load(Ordering::Relaxed) && self.remaining() > 0
    }

    /// The next pages, from `from` on, that nobody has installed.
    pub fn next_unclaimed(&self, from: PageNumber, max_pages: u64) -> Option<PageRun> {
        self.claims.next_unclaimed(from, max_pages)
    }

    /// The bulk link brings nothing more: because all was pushed, or because it failed or brought damaged pages. What is
    /// missing then is requested over the urgent link, if that lives.
    pub fn bulk_ended(&self, failed: bool, missing: &dyn MissingPages) {
        let mut state = self.lock();
        state.1.bulk = if failed { Bulk::Lost } else { Bulk::Ended };
        self.is_bulk_lost.store(failed, Ordering::Relaxed);
        self.is_bulk_open.store(false, Ordering::Relaxed);
        // After a push that ended well, the last answers may be under way on the urgent link.
        if failed && (state.1.urgent_failed || state.0 == State::Loading) {
            self.stop(state, missing);
        }
    }

    /// Whether another push may come on the bulk link.
    pub fn may_be_pushed_again(&self) -> bool {
        matches!(self.lock().0, State::Loading | State::Running)
    }

    /// The control link is gone as well: nobody can be asked for what is missing.
    pub fn give_up(&self, missing: &dyn MissingPages) {
        self.stop(self.lock(), missing);
    }

    /// The urgent link brings nothing more. The push may still bring all.
    pub fn urgent_failed(&self, missing: &dyn MissingPages) {
        let mut state = self.lock();
        state.1.urgent_failed = true;
        match state.0 {
            // A page that never held anything may yet be touched, and nobody puts zeros there any more.
            State::Complete => let_go(missing),
            // A guest that has not started needs answers, for nothing is pushed before the start.
            State::Loading => self.stop(state, missing),
            State::Running if state.1.bulk == Bulk::Lost => self.stop(state, missing),
            // The push goes on, and what the answers would have brought is pushed again.
            State::Running | State::Stopped => {}
        }
    }

    /// Nothing more will come. A guest that runs goes on waiting for what it touches; but if it has
    /// not started it never will, and whoever waits on its behalf, loading its state, is let go.
    fn stop(&self, mut state: MutexGuard<'_, (State, Links)>, missing: &dyn MissingPages) {
        let before = state.0;
        if matches!(before, State::Loading | State::Running) {
            state.0 = State::Stopped;
            self.changed.notify_all();
        }
        if before == State::Loading {
            let_go(missing);
        }
    }

    /// Receives a frame's payload into a buffer and installs its pages: for a few that somebody waits
    /// for, and where there is no landing area for them.
    pub fn receive(
        &self,
        frame: &Frame,
        wire: &mut dyn Wire,
        staging: &mut Staging,
        missing: &dyn MissingPages,
    ) -> Result<(), SinkError> {
        expect_frozen(frame)?;
        let payload = staging.pages(frame.data_pages);
        receive_payload(wire, frame.encoding, &[RunBytes::of_buffer(payload)])?;
        let mut runs = Vec::with_capacity(frame.segments.len());
        let mut rest = &*payload;
        for run in frame.payload_runs() {
            let (bytes, others) = rest.split_at(run.byte_len());
            runs.push((run, bytes));
            rest = others;
        }
        let mut found = Digest::default();
        runs.iter().for_each(|(run, bytes)| found.add(run.first, bytes));
        check_digest(wire, frame, found)?;
        for (run, bytes) in runs {
            self.claim_each(run, |part| {
                let bytes = &bytes[PageRun::new(0, part.first - run.first).byte_len()..][..part.byte_len()];
                self.add_digest(part, bytes);
                missing.install(part.first, bytes)
            })?;
        }
        self.install_zeros(frame, missing)
    }

    /// As [`Arrivals::receive`], each page at its place in the landing area, from where it is installed
    /// without being copied again.
    pub fn receive_in(
        &self,
        area: &dyn GuestPages,
        frame: &Frame,
        wire: &mut dyn Wire,
        missing: &dyn MissingPages,
    ) -> Result<(), SinkError> {
        expect_frozen(frame)?;
        // SAFETY: one bulk link, one thread that receives into the area.
        let landed = unsafe { receive_hashed(wire, frame, area)? };
        // Nearly always the whole frame is still wanted, and its digest is known.
        let mut parts = Vec::with_capacity(frame.segments.len());
        frame.payload_runs().for_each(|run| self.claim_parts(run, |part| parts.push(part)));
        if self.keep_digest {
            let mut digest = landed;
            if parts.iter().map(|part| part.count).sum::<u64>() != frame.data_pages {
                digest = Digest::default();
                // SAFETY: as above.
                parts.iter().for_each(|&part| digest.add(part.first, unsafe { area.bytes(part).frozen() }));
            }
            self.digest.fetch_add(digest.0, Ordering::AcqRel);
        }
        for part in parts {
            self.install(part, |part| missing.install_landed(part))?;
        }
        self.install_zeros(frame, missing)
    }

    /// Installs the pages that came along with the state.
    pub fn install_along(
        &self,
        along: &Along,
        bytes: &[u8],
        missing: &dyn MissingPages,
    ) -> Result<(), SinkError> {
        let mut found = Digest::default();
        for (&page, bytes) in along.pages.iter().zip(bytes.chunks(PAGE_SIZE)) {
            if page >= self.expected.page_count() || self.is_expected(page) {
                return Err(SinkError::BadPageAlong { page });
            }
            found.add_any(page, bytes);
            if missing.install(page, bytes).map_err(SinkError::Install)? != 1 {
                return Err(SinkError::AlreadyThere { first: page });
            }
        }
        if found != along.digest {
            let first = along.pages.first().copied().unwrap_or_default();
            return Err(SinkError::Damaged { first, found: found.0, expected: along.digest.0 });
        }
        if self.keep_digest {
            self.digest.fetch_add(found.0, Ordering::AcqRel);
        }
        Ok(())
    }

    fn install_zeros(&self, frame: &Frame, missing: &dyn MissingPages) -> Result<(), SinkError> {
        frame.zero_runs().try_for_each(|run| self.claim_each(run, |run| missing.install_zeros(run)))
    }

    fn add_digest(&self, run: PageRun, bytes: &[u8]) {
        if self.keep_digest {
            let mut digest = Digest::default();
            digest.add(run.first, bytes);
            self.digest.fetch_add(digest.0, Ordering::AcqRel);
        }
    }

    /// Claims and installs those parts of `run` that nobody has installed yet, each as long as it can be.
    fn claim_each(
        &self,
        run: PageRun,
        install: impl Fn(PageRun) -> Result<u64, VmError>,
    ) -> Result<(), SinkError> {
        let mut result = Ok(());
        self.claim_parts(run, |part| {
            if result.is_ok() {
                result = self.install(part, &install);
            }
        });
        result
    }

    /// Claims those parts of `run` that nobody has claimed yet, each as long as it can be.
    fn claim_parts(&self, run: PageRun, mut claimed: impl FnMut(PageRun)) {
        let mut from = run.first;
        while let Some(mut part) = self.claims.claim_within(PageRun::new(from, run.end() - from)) {
            // Claims end at every 64th page; what they say of neighbours is one part.
            while let Some(more) = self.claims.claim_first(part.end(), run.end()) {
                part.count += more;
            }
            from = part.end();
            claimed(part);
        }
    }

    /// Installs pages that this thread has claimed.
    fn install(
        &self,
        part: PageRun,
        install: impl Fn(PageRun) -> Result<u64, VmError>,
    ) -> Result<(), SinkError> {
        if install(part).map_err(SinkError::Install)? != part.count {
            return Err(SinkError::AlreadyThere { first: part.first });
        }
        if self.remaining.fetch_sub(part.count, Ordering::AcqRel) == part.count {
            self.lock().0 = State::Complete;
            self.changed.notify_all();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (State, Links)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever waits for a page finds zeros.
fn let_go(missing: &dyn MissingPages) {
    if let Err(error) = missing.unwatch() {
        tracing::error!(
            error = crate::report::in_words(&error),
            "whoever waits for missing pages goes on waiting"
        );
    }
}

fn expect_frozen(frame: &Frame) -> Result<(), SinkError> {
    match frame.kind {
        FrameKind::FrozenPages => Ok(()),
        found => Err(SinkError::OutOfPlace { found }),
    }
}

/// Where a frame's pages wait until they are installed; one a thread.
pub(super) struct Staging(Vec<AlignedPage>);

#[derive(Clone)]
#[repr(C, align(4096))]
struct AlignedPage([u8; PAGE_SIZE]);

impl Staging {
    /// Room for so many pages, in memory that is there.
    pub fn of(pages: u64) -> Staging {
        Staging(vec![AlignedPage([0xff; PAGE_SIZE]); pages as usize])
    }

    /// How many pages it has room for.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Room for the first `count` of them.
    pub fn pages(&mut self, count: u64) -> &mut [u8] {
        let pages = &mut self.0[..count as usize];
        // SAFETY: an array of pages is their bytes, without padding: `AlignedPage` is one page long
        // and aligned to as much.
        unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), pages.len() * PAGE_SIZE) }
    }
}
