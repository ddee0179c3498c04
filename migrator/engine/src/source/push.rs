//! After the handover: missing pages go to the destination, those that are requested first.
//!
//! Two threads share them. The *push* goes through memory from one end to the other on the bulk link;
//! the *server* answers page requests on the urgent link. Whoever claims a page sends it. A page that
//! is requested after the push has claimed it is still on its way behind other pages, so it is sent
//! again, ahead of them: the copy that comes second is dropped at the destination.
//!
//! Where a vCPU touched one page it will touch others nearby soon, so the server sends its neighbours after it, and the
//! push goes on from there.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use super::{MigrateError, Migration};
use crate::{
    pages::{Claims, GuestPages, PageRun, PageSet, PageSink, PageStream, Sent},
    progress::{Phase, Progress},
    protocol::{Frame, FrameKind, MAX_FRAME_PAGES, Missing},
    ready::spawn_ready,
    transport::{HangUp, LinkHandle, Pace, Wire},
    urgent::{Priority, set_priority},
};

/// Pages in a neighbourhood, which begins at a multiple of this: enough to save faults, few enough that whoever touches
/// another page meanwhile does not wait for them noticeably.
const NEIGHBOURHOOD_PAGES: u64 = 16;
/// No page: the push goes on where it is.
const NO_HINT: u64 = u64::MAX;
/// The stage that the push is.
const PUSH_STAGE: u32 = 1;

/// Pages that are missing at the destination, as push and server share them.
pub(super) struct Shared {
    claims: Claims,
    /// Those that the server has not sent.
    unanswered: Claims,
    /// Where the push should go on.
    hint: AtomicU64,
}

impl Shared {
    pub fn new(missing: &PageSet) -> Shared {
        let claims = || Claims::new(missing);
        Shared { claims: claims(), unanswered: claims(), hint: AtomicU64::new(NO_HINT) }
    }

    /// Claims what is left of the first block that has something left: the one where a page was
    /// requested last, or from `block` on, around the end of memory. Leaves `block` at the next one.
    ///
    /// A frame is a block, so that the destination can move it into place in one piece.
    fn claim_block(&self, block: &mut u64) -> Option<Vec<PageRun>> {
        let hint = self.hint.swap(NO_HINT, Ordering::Relaxed);
        if hint != NO_HINT {
            *block = hint / MAX_FRAME_PAGES;
        }
        let from = *block * MAX_FRAME_PAGES;
        let first = self.claims.claim_next(from).or_else(|| self.claims.claim_next(0))?;
        *block = first.first / MAX_FRAME_PAGES + 1;
        let end = *block * MAX_FRAME_PAGES;
        let mut claimed = vec![first];
        while let Some(run) = self.claims.claim_within(PageRun::new(first.end(), end - first.end())) {
            match claimed.last_mut() {
                Some(last) if last.end() == run.first => last.count += run.count,
                _ => claimed.push(run),
            }
        }
        Some(claimed)
    }
}

/// Answers page requests, from the moment it is told what is missing.
pub(crate) struct PageServer {
    begin: Option<Sender<Arc<Shared>>>,
    link: Option<HangUp>,
    thread: Option<JoinHandle<Sent>>,
}

impl PageServer {
    /// Makes it ready. No request is answered before the guest stands still.
    pub fn spawn(
        mut stream: PageStream,
        pages: Arc<dyn GuestPages>,
        progress: Arc<Progress>,
        bulk: &dyn Wire,
    ) -> io::Result<PageServer> {
        let (link, bulk) = (HangUp::of(stream.wire())?, LinkHandle::of(bulk)?);
        let ends = link.clone();
        let (begin, wait) = channel::<Arc<Shared>>();
        let prepare = move || {
            set_priority(Priority::Foremost);
            Answers { bulk: Some(bulk), ..Answers::new(stream, pages, progress) }
        };
        let serve = move |answers: Answers| {
            let _ends = ends;
            wait.recv().map_or_else(|_| Sent::default(), |shared| answers.give(&shared))
        };
        let thread = Some(spawn_ready("page-server", prepare, serve)?);
        Ok(PageServer { begin: Some(begin), link: Some(link), thread })
    }

    /// Ends it, once the destination has all. It closes the urgent link as well, but one that has stalled does not say so.
    pub fn finish(mut self) -> Sent {
        drop(self.link.take());
        self.join()
    }

    fn join(&mut self) -> Sent {
        drop(self.begin.take());
        self.thread.take().map_or_else(Sent::default, |thread| thread.join().unwrap_or_default())
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        // Without it both sides would wait for each other's word.
        drop(self.link.take());
        self.join();
    }
}

/// What page requests are answered with.
pub(super) struct Answers {
    stream: PageStream,
    sink: PageSink,
    pages: Arc<dyn GuestPages>,
    progress: Arc<Progress>,
    /// What the push goes over.
    bulk: Option<LinkHandle>,
}

impl Answers {
    pub fn new(stream: PageStream, pages: Arc<dyn GuestPages>, progress: Arc<Progress>) -> Answers {
        Answers { stream, sink: PageSink::new(pages.page_count()), pages, progress, bulk: None }
    }

    /// Answers until the link ends.
    pub fn give(mut self, shared: &Shared) -> Sent {
        // A cancel comes too late now.
        self.stream.ignore_interrupt();
        self.stream.wire().outlast();
        loop {
            let request = self.sink.receive_frame(self.stream.wire()).map_err(drop);
            let answered = request.and_then(|request| self.answer(&request, shared).map_err(drop));
            // The destination closed the link because it has all, or is gone: the control link tells.
            if answered.is_err() {
                return self.stream.sent();
            }
        }
    }

    fn answer(&mut self, request: &Frame, shared: &Shared) -> io::Result<()> {
        if request.kind != FrameKind::Request {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Single pages are touched, and waited for. Runs are what another link did not bring.
        let is_page = |run: &PageRun| run.count == 1;
        let requested =
            || request.segments.iter().map(|(_, run)| run).filter(|run| is_page(run)).map(|run| run.first);
        let claim = |run| std::iter::from_fn(|| shared.claims.claim_within(run)).map(|run| run.count).sum();
        // `claimed` pages of them were not sent before, nor are they by the push.
        let Answers { stream, pages, progress, bulk, .. } = self;
        if request.segments.iter().any(|(_, run)| !is_page(run))
            && let Some(bulk) = bulk.take()
        {
            // The destination has given that link up, and a push over one that stalled would never end.
            bulk.hang_up();
        }
        let send = |stream: &mut PageStream, runs: &[PageRun], claimed: u64| -> io::Result<()> {
            let runs = runs.iter().copied();
            let sent = stream.send(&**pages, runs, None, FrameKind::FrozenPages, |_| ())?;
            progress.served(sent, claimed);
            Ok(())
        };
        for &(_, run) in request.segments.iter().filter(|(_, run)| !is_page(run)) {
            send(stream, &[run], claim(run))?;
        }
        // A page that the push has claimed is on its way, but behind others.
        for page in requested() {
            let claimed = claim(PageRun::one(page));
            shared.unanswered.claim_within(PageRun::one(page));
            send(stream, &[PageRun::one(page)], claimed)?;
            shared.hint.store(page, Ordering::Relaxed);
        }
        // In frames of their own: the vCPU runs on while they are on their way.
        for page in requested() {
            // Nobody waits for them yet: where the limit leaves no room, the push brings them next.
            if !stream.has_room() {
                break;
            }
            let first = page / NEIGHBOURHOOD_PAGES * NEIGHBOURHOOD_PAGES;
            let neighbourhood = PageRun::new(first, NEIGHBOURHOOD_PAGES);
            let claimed = claim(neighbourhood);
            let neighbours = std::iter::from_fn(|| shared.unanswered.claim_within(neighbourhood));
            send(stream, &neighbours.collect::<Vec<_>>(), claimed)?;
        }
        Ok(())
    }
}

/// Pages that only the source has.
pub struct MissingAtSource(Arc<Shared>);

impl MissingAtSource {
    /// Room for pages of the same guest as those of `missing`.
    pub(crate) fn with_room_for(missing: &PageSet) -> MissingAtSource {
        MissingAtSource(Arc::new(Shared::new(missing)))
    }

    /// Lets the server answer requests for `missing`. The guest stands still.
    pub(crate) fn begin_serving(&mut self, missing: &PageSet, server: Option<&PageServer>) {
        let shared = Arc::get_mut(&mut self.0).expect("nobody else has it before the server gets it");
        shared.claims.begin_again(missing);
        shared.unanswered.begin_again(missing);
        if let Some(server) = server {
            // If it is gone its link is, and the destination's first request says so.
            server.begin.as_ref().map(|begin| begin.send(self.0.clone()));
        }
    }
}

impl Migration<'_> {
    /// Sends what is missing until nothing is, the link is lost, or the destination says something. A lost link is no
    /// failure: the destination requests what it would have brought.
    pub(super) fn push(&mut self, missing: MissingAtSource) {
        let begin = Instant::now();
        set_priority(Priority::Push);
        self.bulk.wire().set_pace(Pace::Considerate);
        let shared = missing.0;
        self.progress.begin(Phase::Push, shared.claims.remaining());
        let absent = self.pages.absent();
        let progress = |sent| self.progress.sent(sent);
        let before = self.bulk.sent();
        let mut block = 0;
        let mut pushed = Ok(());
        // A control link that is lost says nothing, and the guest needs its pages all the same.
        let is_spoken_to = |wire: &dyn Wire| wire.has_input() && !wire.has_ended();
        while pushed.is_ok() && !is_spoken_to(self.control.wire()) {
            let Some(claimed) = shared.claim_block(&mut block) else {
                pushed = self.bulk.end_stage(PUSH_STAGE);
                break;
            };
            let frozen = FrameKind::FrozenPages;
            pushed = self.bulk.send(&*self.pages, claimed, Some(&absent), frozen, progress).map(drop);
        }
        if let Err(error) = pushed {
            tracing::warn!(%error, "the bulk link is lost: what is missing goes over the urgent link");
        }
        // One that broke off is recorded, too: its bytes were sent.
        let mut round = self.timeline.push.unwrap_or_default();
        round.sent.add(self.bulk.sent().since(before));
        round.duration += begin.elapsed();
        self.timeline.push = Some(round);
    }

    /// Pushes again what did not come.
    pub(super) fn push_again(&mut self, missing: &Missing) -> Result<(), MigrateError> {
        let mut pages = PageSet::empty(self.page_count);
        missing.put_into(&mut pages).ok_or(MigrateError::Unexpected { said: "pages the guest has not" })?;
        self.push(MissingAtSource(Arc::new(Shared::new(&pages))));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        pages::Encoding,
        sim::{SimVm, SimWorkload},
        transport::{Acceptor, Connector, Interrupt, Lane, Limit, Throttle, memory},
        vm::SourceVm,
    };

    /// What is sent in answer to a request counts against `--max-bandwidth`, and pages that nobody waits for are left to
    /// the push where there is no room.
    #[test]
    fn max_bandwidth_counts_requested_pages() {
        let workload = SimWorkload { seed: 1, working_set: 8, rate: None, zero_one_in: 0, network: false };
        let vm = SimVm::boot("vm", 64, workload).expect("memory");
        let interrupt = Interrupt::default();
        let (connector, mut acceptor) = memory::pair();
        let wire = connector.connect(&interrupt).expect("a link");
        let _other = acceptor.accept(&interrupt, None).expect("a link");
        let throttle = Arc::new(Throttle::new(8));
        let limit = Limit { throttle: throttle.clone(), lane: Lane::Urgent, interrupt };
        let progress = Arc::<Progress>::default();
        let stream = PageStream::new(wire, Some(limit));
        let mut answers = Answers::new(stream, vm.pages(), progress.clone());
        let shared = Shared::new(&PageSet::all(64));
        let segments = vec![(Encoding::Raw, PageRun::one(20))];
        let request = Frame::without_payload(FrameKind::Request, 0, segments);
        answers.answer(&request, &shared).expect("room in the socket");
        let sent = progress.urgent();
        assert_eq!((sent.pages, shared.claims.remaining()), (1, 63));
        // At a byte a second.
        let waits = throttle.admit(Lane::Bulk, 1, Instant::now()).unwrap_err();
        assert!(waits > Duration::from_secs(3600), "{waits:?} after {} bytes", sent.bytes);
    }
}
