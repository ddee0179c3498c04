//! The thread that vCPUs wait for: it requests the missing pages they touch and installs the answers.
//!
//! One thread does both, so that a page fault costs no hop between threads on this side. It waits
//! for whichever comes first: a fault, or an answer on the urgent link.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{
    arrivals::{Arrivals, Staging},
    latencies::Latencies,
};
use crate::{
    pages::{Encoding, PageNumber, PageRun, PageSink, SinkError},
    protocol::{Frame, FrameKind, FrameWriter, MAX_FRAME_PAGES, MAX_FRAME_RUNS, Segment},
    ready::spawn_ready,
    report::{FaultStatistics, in_words},
    transport::{HangUp, LinkHandle, Wire},
    urgent::{Priority, set_priority},
    vm::MissingPages,
};

/// What it serves, and the link that pushes what nobody requests.
type Task = (Arc<Arrivals>, Option<LinkHandle>);

/// How long a link may bring nothing that is to bring pages, before another brings them: one can stall though its peer
/// lives, as where a relay has lost one of them.
const STALLED_AFTER: Duration = Duration::from_secs(15);

/// Serves page faults, from the moment it is told what is missing.
pub(super) struct FaultServer {
    missing: Arc<dyn MissingPages>,
    begin: Option<Sender<Task>>,
    stop: Arc<OwnedFd>,
    link: Option<HangUp>,
    thread: Option<JoinHandle<Result<FaultStatistics, SinkError>>>,
}

impl FaultServer {
    /// Makes it ready.
    pub fn spawn(
        wire: Box<dyn Wire>,
        missing: Arc<dyn MissingPages>,
        page_count: u64,
    ) -> io::Result<FaultServer> {
        let link = HangUp::of(&*wire)?;
        let ends = link.clone();
        let (begin, wait) = channel();
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (stopped, serves) = (stop.clone(), missing.clone());
        let prepare = move || {
            set_priority(Priority::Foremost);
            Server::new(wire, serves, page_count)
        };
        let serve = move |server: Server| {
            let _ends = ends;
            server.run(&wait, &stopped)
        };
        let thread = spawn_ready("fault-server", prepare, serve)?;
        let (begin, link, thread) = (Some(begin), Some(link), Some(thread));
        Ok(FaultServer { missing, begin, stop, link, thread })
    }

    /// Faults are served from here on.
    pub fn begin(&self, arrivals: &Arc<Arrivals>, bulk: Option<LinkHandle>) {
        // If the thread is gone, it has panicked, and joining it says so.
        if let Some(begin) = &self.begin {
            begin.send((arrivals.clone(), bulk)).ok();
        }
    }

    /// The pages it watches.
    pub fn missing(&self) -> &Arc<dyn MissingPages> {
        &self.missing
    }

    /// Ends it. Whoever touches a missing page from here on goes on waiting.
    pub fn finish(mut self) -> Result<FaultStatistics, SinkError> {
        self.stop()?;
        let Some(thread) = self.thread.take() else { return Ok(FaultStatistics::default()) };
        thread.join().map_err(|_| io::Error::other("the fault thread panicked"))?
    }

    fn stop(&mut self) -> io::Result<()> {
        drop(self.begin.take());
        rustix::io::write(&*self.stop, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        let stopped = self.stop();
        drop(self.link.take());
        if let Some(thread) = self.thread.take()
            && stopped.is_ok()
        {
            // Nobody asks any more how it went.
            drop(thread.join());
        }
    }
}

struct Server {
    wire: Box<dyn Wire>,
    missing: Arc<dyn MissingPages>,
    sink: PageSink,
    staging: Staging,
    writer: FrameWriter,
    /// When pages that are requested and not yet here were asked for.
    requested: HashMap<PageNumber, Instant>,
    latencies: Latencies,
    /// What was requested last of what another link did not bring.
    rest: Option<PageRun>,
    /// Frames that have come on the urgent link.
    answers: u64,
    progress: LastProgress,
}

/// When pages came last.
struct LastProgress {
    when: Instant,
    /// Frames that the push and this link had brought by then.
    pushed: u64,
    answers: u64,
    /// How many answers there were when a page was requested only to see whether the source lives.
    probed: Option<u64>,
}

impl Server {
    fn new(wire: Box<dyn Wire>, missing: Arc<dyn MissingPages>, page_count: u64) -> Server {
        Server {
            wire,
            missing,
            sink: PageSink::new(page_count),
            staging: Staging::of(MAX_FRAME_PAGES),
            writer: FrameWriter::default(),
            requested: HashMap::with_capacity(1024),
            latencies: Latencies::new(),
            rest: None,
            answers: 0,
            progress: LastProgress { when: Instant::now(), pushed: 0, answers: 0, probed: None },
        }
    }

    /// Waits for the word to begin, and serves until stopped. When the link fails, whoever waits for all
    /// pages is told.
    fn run(mut self, begin: &Receiver<Task>, stop: &OwnedFd) -> Result<FaultStatistics, SinkError> {
        let Ok((arrivals, bulk)) = begin.recv() else { return Ok(FaultStatistics::default()) };
        self.wire.outlast();
        self.progress.when = Instant::now();
        let result = self.serve(&arrivals, bulk.as_ref(), stop);
        if result.is_err() {
            arrivals.urgent_failed(&*self.missing);
        }
        result.map(|()| self.latencies.statistics())
    }

    fn serve(
        &mut self,
        arrivals: &Arrivals,
        bulk: Option<&LinkHandle>,
        stop: &OwnedFd,
    ) -> Result<(), SinkError> {
        let mut faults = Vec::new();
        loop {
            let [fault, answer, stopped] = wait(&*self.missing, &*self.wire, stop)?;
            self.look_for_stalls(arrivals, bulk)?;
            if self.rest.is_none() && arrivals.is_rest_to_request() {
                self.request_rest(arrivals, 0)?;
            }
            if answer {
                self.receive_answer(arrivals)?;
            }
            if fault {
                self.missing.next_faults(&mut faults).map_err(SinkError::Install)?;
                self.request(arrivals, &faults)?;
                faults.clear();
            }
            if stopped {
                return Ok(());
            }
        }
    }

    /// A link that brings nothing for long although it is to is given up, so that the other brings its pages: the push's only
    /// if the source is seen to live, for a host that is stopped brings nothing on any link.
    fn look_for_stalls(&mut self, arrivals: &Arrivals, bulk: Option<&LinkHandle>) -> Result<(), SinkError> {
        let ((pushed, is_push_open), answers) = (arrivals.push(), self.answers);
        let moves = pushed != self.progress.pushed || !is_push_open && answers != self.progress.answers;
        if moves || arrivals.remaining() == 0 || self.rest.is_some() {
            self.progress = LastProgress { when: Instant::now(), pushed, answers, probed: None };
            return Ok(());
        }
        if self.progress.when.elapsed() < STALLED_AFTER {
            return Ok(());
        }
        match (is_push_open, self.progress.probed, bulk) {
            (false, ..) => Err(SinkError::Link(io::ErrorKind::TimedOut.into())),
            (true, None, _) => {
                self.progress.probed = Some(answers);
                let page = arrivals.next_unclaimed(0, 1).map(|run| run.first);
                self.request(arrivals, page.as_slice())
            }
            (true, Some(probed), Some(bulk)) if answers > probed => {
                tracing::warn!("the bulk link is stalled: its pages are requested");
                bulk.hang_up();
                Ok(())
            }
            (true, ..) => Ok(()),
        }
    }

    /// Asks for pages that were touched, each once.
    fn request(&mut self, arrivals: &Arrivals, faults: &[PageNumber]) -> Result<(), SinkError> {
        let now = Instant::now();
        let mut wanted: Vec<Segment> = Vec::with_capacity(faults.len());
        for &page in faults {
            if !arrivals.is_expected(page) {
                // Never sent because it never held anything.
                self.missing.install_zeros(PageRun::one(page)).map_err(SinkError::Install)?;
            } else if let Entry::Vacant(first) = self.requested.entry(page) {
                // Who touches it again meanwhile, or after a kick, does not begin the wait anew.
                first.insert(now);
                wanted.push((Encoding::Raw, PageRun::one(page)));
            }
        }
        for batch in wanted.chunks(MAX_FRAME_RUNS) {
            self.wire.send(self.writer.encode(FrameKind::Request, 0, batch))?;
        }
        Ok(())
    }

    /// Requests the next pages that another link did not bring, one run at a time: the answer to one is the time to ask for
    /// the next, so that neither side fills the link with what the other does not read.
    fn request_rest(&mut self, arrivals: &Arrivals, from: PageNumber) -> Result<(), SinkError> {
        // A run of one page would be taken for a fault, which is answered as well.
        self.rest = arrivals.next_unclaimed(from, MAX_FRAME_PAGES);
        if let Some(run) = self.rest {
            self.wire.send(self.writer.encode(FrameKind::Request, 0, &[(Encoding::Raw, run)]))?;
        }
        Ok(())
    }

    fn receive_answer(&mut self, arrivals: &Arrivals) -> Result<(), SinkError> {
        let frame: Frame = self.sink.receive_frame(&mut *self.wire)?;
        self.answers += 1;
        match arrivals.receive(&frame, &mut *self.wire, &mut self.staging, &*self.missing) {
            Err(error @ SinkError::Damaged { .. }) => {
                tracing::warn!(error = in_words(&error), "these pages are requested again");
                self.wire.send(self.writer.encode(FrameKind::Request, 0, &frame.segments))?;
                return Ok(());
            }
            received => received?,
        }
        if let Some(rest) =
            self.rest.filter(|rest| frame.segments.iter().any(|(_, run)| run.end() >= rest.end()))
        {
            self.request_rest(arrivals, rest.end())?;
        }
        let now = Instant::now();
        for page in frame.segments.iter().flat_map(|(_, run)| run.pages()) {
            if let Some(asked) = self.requested.remove(&page) {
                self.latencies.record(now - asked);
            }
        }
        Ok(())
    }
}

/// How often it is looked whether another link is lost.
const LOOK_AROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Waits for a fault, an answer, or the word to stop; at most for a moment.
fn wait(missing: &dyn MissingPages, wire: &dyn Wire, stop: &OwnedFd) -> Result<[bool; 3], SinkError> {
    let (faults, answers, stop) = (missing.as_fd(), wire.as_fd(), stop.as_fd());
    let mut fds = [faults, answers, stop].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        match poll(&mut fds, Some(&LOOK_AROUND)) {
            Ok(_) => return Ok([0, 1, 2].map(|i| !fds[i].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SinkError::Link(error.into())),
        }
    }
}
