//! The thread that receives a bulk link: first into memory, until the stage ends that must be there
//! before the start; then, where pages are missing, through their installer.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Control, LAST_WORDS, ReceiveError, TICK,
    arrivals::{Arrivals, Staging},
};
use crate::{
    pages::{Digest, GuestPages, Landing, PageSink, SinkError},
    protocol::{FrameKind, FromSource, MAX_FRAME_PAGES},
    ready::spawn_ready,
    report::in_words,
    transport::{HangUp, Interrupt, LinkHandle, Pace, Wire},
    urgent::{Priority, set_priority},
    vm::MissingPages,
};

/// How long a source may take to end its push when all pages are here.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);

type Installer = (Arc<Arrivals>, Arc<dyn MissingPages>);

/// A bulk link being received.
pub(super) struct BulkReceiver {
    stage: Receiver<Option<Digest>>,
    install: Option<Sender<Installer>>,
    error: Arc<Mutex<Option<SinkError>>>,
    link: Option<HangUp>,
    thread: Option<JoinHandle<()>>,
}

impl BulkReceiver {
    /// Begins to receive into memory, if any page `may_land`; `landed` counts pages. A failure raises `halt` and can be taken from here.
    pub fn spawn(
        wire: Box<dyn Wire>,
        pages: Arc<dyn GuestPages>,
        may_land: bool,
        keep_digest: bool,
        landed: &Arc<AtomicU64>,
        halt: &Interrupt,
    ) -> io::Result<BulkReceiver> {
        let link = HangUp::of(&*wire)?;
        let ends = link.clone();
        let (stage_sender, stage) = channel();
        let (install, installer) = channel();
        let error: Arc<Mutex<Option<SinkError>>> = Arc::default();
        let failed = Arc::clone(&error);
        let halt = halt.clone();
        let (page_count, landed) = (pages.page_count(), landed.clone());
        let receive = move |sink| {
            set_priority(Priority::Rounds);
            let _ends = ends;
            let landing = Landing::new(&*pages, keep_digest, &landed);
            let landing = if may_land { landing } else { landing.closed() };
            if let Err(error) = run(wire, sink, landing, &stage_sender, &installer) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                halt.raise();
            }
        };
        let thread = spawn_ready("bulk-receiver", move || PageSink::new(page_count), receive)?;
        Ok(BulkReceiver { stage, install: Some(install), error, link: Some(link), thread: Some(thread) })
    }

    /// Waits until all that must be there before the start is there. Returns its digest, if kept.
    pub fn stage_end(&self, halt: &Interrupt) -> Result<Option<Digest>, SinkError> {
        loop {
            match self.stage.recv_timeout(TICK) {
                Ok(digest) => return Ok(digest),
                Err(RecvTimeoutError::Timeout) if !halt.is_raised() => {}
                Err(_) => {
                    let interrupted = || SinkError::Link(io::ErrorKind::Interrupted.into());
                    return Err(self.take_error().unwrap_or_else(interrupted));
                }
            }
        }
    }

    /// What comes from here on are missing pages.
    pub fn begin_installing(&self, arrivals: &Arc<Arrivals>, missing: &Arc<dyn MissingPages>) {
        // If the thread is gone it has failed, and its error says why.
        if let Some(install) = &self.install {
            install.send((arrivals.clone(), missing.clone())).ok();
        }
    }

    /// All pages are there: waits for the source's last word on this link.
    pub fn finish(mut self) {
        drop(self.install.take());
        let limit = Instant::now() + LAST_WORD_LIMIT;
        // The thread has the other end.
        while let Ok(_) | Err(RecvTimeoutError::Timeout) = self.stage.recv_timeout(TICK)
            && Instant::now() < limit
        {}
    }

    /// Its link, while it has one.
    pub fn link(&self) -> Option<LinkHandle> {
        self.link.as_ref().map(HangUp::handle)
    }

    /// What went wrong, if anything has.
    pub fn take_error(&self) -> Option<SinkError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The reason behind an error. A thread that failed raised the interrupt, and what it met is the
    /// reason; but where it met the end of its link, the source may have said why on the control link.
    pub fn reason_behind<V>(&self, error: ReceiveError<V>, control: &mut Control) -> ReceiveError<V> {
        if matches!(error, ReceiveError::Aborted { .. }) {
            return error;
        }
        let Some(met) = self.take_error() else { return error };
        if matches!(met, SinkError::Link(_)) {
            control.wire().ignore_interrupt();
            control.wire().set_patience(Some(LAST_WORDS));
            while let Ok(message) = control.receive() {
                if let FromSource::Abort { reason } = message {
                    return ReceiveError::Aborted { reason };
                }
            }
        }
        ReceiveError::Pages(met)
    }
}

impl Drop for BulkReceiver {
    fn drop(&mut self) {
        drop((self.install.take(), self.link.take()));
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            thread.join().ok();
        }
    }
}

fn run(
    mut wire: Box<dyn Wire>,
    mut sink: PageSink,
    mut landing: Landing<'_>,
    stage: &Sender<Option<Digest>>,
    installer: &Receiver<Installer>,
) -> Result<(), SinkError> {
    sink.receive_stage(&mut *wire, &mut landing)?;
    // Whoever no longer listens has given up already.
    stage.send(landing.digest()).ok();
    let Ok((arrivals, missing)) = installer.recv() else { return Ok(()) };
    // The guest may run here: what is missing must come, whatever the user says now.
    wire.outlast();
    set_priority(Priority::Push);
    wire.set_pace(Pace::Considerate);
    // Once, and again what the other link lost.
    while arrivals.may_be_pushed_again() {
        let result = install(&mut sink, &mut *wire, &arrivals, &*missing);
        arrivals.bulk_ended(!matches!(result, Ok(Pushed::Whole)), &*missing);
        if let Err(error) = result {
            if !arrivals.may_be_pushed_again() {
                // The source has ended the link, because all is here.
                return Ok(());
            }
            if matches!(error, SinkError::Install(_) | SinkError::AlreadyThere { .. }) {
                // Not the link, but this machine's memory.
                arrivals.give_up(&*missing);
                return Err(error);
            }
            tracing::warn!(error = in_words(&error), "the bulk link is lost: its pages are requested");
            wire.hang_up();
            return Ok(());
        }
    }
    Ok(())
}

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// All that was sent is in place.
    Whole,
    /// Some frames were damaged on the way, and their pages are missing still.
    Damaged,
}

/// Receives the pages that the source pushes, until it has pushed all.
pub(super) fn install(
    sink: &mut PageSink,
    wire: &mut dyn Wire,
    arrivals: &Arrivals,
    missing: &dyn MissingPages,
) -> Result<Pushed, SinkError> {
    let mut staging = None;
    let mut pushed = Pushed::Whole;
    loop {
        let frame = sink.receive_frame(wire)?;
        if frame.kind == FrameKind::StageEnd {
            return Ok(pushed);
        }
        let runs: Vec<_> = frame.payload_runs().collect();
        let received = match missing.landing_area(&runs) {
            Some(area) => {
                let received = arrivals.receive_in(area, &frame, wire, missing);
                missing.leave_landing(&runs);
                received
            }
            None => arrivals.receive(
                &frame,
                wire,
                staging.get_or_insert_with(|| Staging::of(MAX_FRAME_PAGES)),
                missing,
            ),
        };
        arrivals.count_pushed_frame();
        match received {
            // The frame's end is known all the same, and none of its pages was installed.
            Err(error @ SinkError::Damaged { .. }) => {
                tracing::warn!(error = in_words(&error), "these pages are requested again");
                pushed = Pushed::Damaged;
            }
            received => received?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pages::{PageRun, PageStream},
        sim::{SimVm, SimWorkload},
        transport::{Acceptor, Connector, memory},
        vm::SourceVm,
    };

    /// It would be waited for for ever: nobody serves page faults yet.
    #[test]
    fn a_page_that_comes_where_all_are_missing_is_refused() {
        let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 0, network: false };
        let pages = SimVm::boot("bulk", 16, workload).unwrap().pages();
        for may_land in [true, false] {
            let interrupt = Interrupt::default();
            let (connector, mut acceptor) = memory::pair();
            let mut stream = PageStream::new(connector.connect(&interrupt).unwrap(), None);
            let wire = acceptor.accept(&interrupt, None).unwrap();
            let receiver =
                BulkReceiver::spawn(wire, pages.clone(), may_land, true, &Arc::default(), &interrupt)
                    .unwrap();
            let kind = FrameKind::FrozenPages;
            stream.send(&*pages, [PageRun::one(3)], None, kind, |_| ()).unwrap();
            stream.end_stage(0).ok();
            match receiver.stage_end(&interrupt) {
                Ok(digest) => assert!(may_land && digest != Some(Digest::default())),
                Err(SinkError::OutOfPlace { found }) => assert!(!may_land && found == kind),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
