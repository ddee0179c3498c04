//! The destination's side of a migration.
//!
//! ```text
//!   listen ──► prepare ──► receiving ──► loaded ──► running ──► complete
//!     ▲           │            │           │           │
//!     └───────────┴────────────┴───────────┘           └──► interrupted: the guest waits for
//!       nothing ran here; the next one may come              pages that only the source has
//! ```
//!
//! The destination knows no strategy: it receives pages until the state comes, and runs the guest
//! with missing pages or without. It starts nothing before the source has said Start, which the
//! source says only after it gave the guest up.

mod arrivals;
mod bulk;
mod error;
mod faults;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inject;
mod latencies;
mod links;
mod reception;
mod stale;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

pub use error::ReceiveError;
pub use reception::Reception;

use self::{
    arrivals::{Arrivals, Staging},
    bulk::BulkReceiver,
    faults::FaultServer,
    inject::Injector,
    stale::Stale,
};
use crate::{
    pages::{Digest, PageSet, RunBytes, SinkError},
    protocol::{
        ControlLink, FromDestination, FromSource, LoadTimes, MAX_PAGES_ALONG, Missing, Offer, StateMessage,
    },
    report::{FaultStatistics, GuestEnd, in_words},
    timeline::{micros, since_boot},
    transport::{Acceptor, Interrupt},
    urgent::{Priority, at_priority, set_priority},
    vm::{DestinationHost, DestinationVm, FramesAhead, VmDescription},
};

type Control = ControlLink<FromDestination, FromSource>;

/// A VM that has arrived and runs.
#[derive(Debug)]
pub struct Arrival<V> {
    /// The machine.
    pub vm: V,
    /// What the source said of it.
    pub description: VmDescription,
    /// How missing pages were waited for.
    pub faults: FaultStatistics,
}

/// Where it is said that a guest has ended whose last pages are still coming, so that the source hears of it.
#[derive(Clone, Debug, Default)]
pub struct EndNotice(Arc<Mutex<Option<GuestEnd>>>);

impl EndNotice {
    /// It has ended, by itself or because its user wanted it.
    pub fn tell(&self, end: GuestEnd) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
    }

    fn taken(&self) -> Option<GuestEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits for one VM and takes it in: until it runs here with all of its memory, or has failed to.
/// After a failure the next one may be waited for with the same acceptor.
///
/// `on_start` is called once, when the guest runs here, before its last missing page has come. It gets what is to be told
/// if the guest ends before that.
///
/// # Errors
/// [`ReceiveError`] says what went wrong and where the guest is now.
pub fn receive<H: DestinationHost>(
    host: &mut H,
    acceptor: &mut dyn Acceptor,
    interrupt: &Interrupt,
    on_start: impl FnOnce(&VmDescription, EndNotice),
) -> Result<Arrival<H::Vm>, ReceiveError<H::Vm>> {
    Reception::open(acceptor, interrupt, |reception| receive_at(reception, host, interrupt, on_start))
}

/// As [`receive`], where callers are being accepted already.
///
/// # Errors
/// As there. The next one may be waited for at the same reception.
pub fn receive_at<H: DestinationHost>(
    reception: &Reception<'_>,
    host: &mut H,
    interrupt: &Interrupt,
    on_start: impl FnOnce(&VmDescription, EndNotice),
) -> Result<Arrival<H::Vm>, ReceiveError<H::Vm>> {
    // Raised by whichever thread fails first, so that the others stop waiting.
    let halt = interrupt.child(None);
    let (visit, mut control, offer) = reception.next(&halt)?;
    let result = prepare(host, &mut control, &offer, &halt).and_then(|vm| {
        let links = visit.links(&mut control, &offer, &halt)?;
        Prepared::new(vm, offer, links, reception.landed(), &halt)
    });
    let ready = match result {
        Ok(ready) => ready,
        Err(error) => return Err(call_off(&mut control, error)),
    };
    ready.receive(control, on_start)
}

/// Makes the machine and rehearses the start, as long as the source is there. What the source must know goes into the
/// error.
fn prepare<H: DestinationHost>(
    host: &mut H,
    control: &mut Control,
    offer: &Offer,
    halt: &Interrupt,
) -> Result<H::Vm, ReceiveError<H::Vm>> {
    let refuse = ReceiveError::Refused;
    let description = VmDescription::from(offer.vm.clone());
    if offer.may_miss_pages {
        host.check_missing_pages(&description).map_err(refuse)?;
    }
    let mut vm = host.create(&description).map_err(refuse)?;
    let mut load_us = u64::MAX;
    for _ in 0..REHEARSALS {
        check_wanted(control, halt)?;
        let begin = Instant::now();
        vm.load_state(&offer.rehearsal).map_err(refuse)?;
        load_us = load_us.min(micros(begin.elapsed()));
    }
    // Loading may have written to memory, which is to be all zeros when pages come.
    vm.discard().map_err(refuse)?;
    // Before it is accepted: only until then the source is patient.
    let link = control.wire().as_fd();
    let is_wanted = || !halt.is_raised() && !links::is_ended(link);
    let populated = at_priority(Priority::Preparation, || match (offer.populate, offer.may_miss_pages) {
        (true, _) => vm.populate(&is_wanted),
        (false, true) => vm.populate_landing(&is_wanted),
        (false, false) => Ok(()),
    });
    check_wanted(control, halt)?;
    populated.map_err(refuse)?;
    control.send(&FromDestination::Accepted { load_us })?;
    Ok(vm)
}

/// Whether this goes on: nobody here has ended it, and the source is there.
fn check_wanted<V>(control: &mut Control, halt: &Interrupt) -> Result<(), ReceiveError<V>> {
    if halt.is_raised() {
        return Err(ReceiveError::Accept(io::ErrorKind::Interrupted.into()));
    }
    if !links::is_ended(control.wire().as_fd()) {
        return Ok(());
    }
    // It may have said why.
    control.wire().set_patience(Some(LAST_WORDS));
    loop {
        if let FromSource::Abort { reason } = control.receive()? {
            return Err(ReceiveError::Aborted { reason });
        }
    }
}

/// Tells the source why, if it is still there; hands the error back.
fn call_off<V>(control: &mut Control, error: ReceiveError<V>) -> ReceiveError<V> {
    control.wire().ignore_interrupt();
    let reason = in_words(&error);
    let message = match error {
        ReceiveError::Refused(_) => FromDestination::Refused { reason },
        _ => FromDestination::Abort { reason },
    };
    control.send(&message).ok();
    error
}

/// Everything is there but the guest.
struct Prepared<V> {
    vm: V,
    offer: Offer,
    bulk: BulkReceiver,
    /// Nobody else has them before the state has come.
    arrivals: Arc<Arrivals>,
    faults: Option<FaultServer>,
    stale: Stale,
    /// Where pages land that come along with the state.
    along: Staging,
    injector: Option<Injector>,
    halt: Interrupt,
}

impl<V: DestinationVm> Prepared<V> {
    fn new(
        mut vm: V,
        offer: Offer,
        links: links::DataLinks,
        landed: &Arc<AtomicU64>,
        halt: &Interrupt,
    ) -> Result<Prepared<V>, ReceiveError<V>> {
        let faults = match links.urgent {
            Some(urgent) => {
                let missing = stale::prepare(&mut vm, &offer)?;
                Some(FaultServer::spawn(urgent, missing, offer.vm.page_count).map_err(ReceiveError::Thread)?)
            }
            None => None,
        };
        // A machine whose network the source does not know of hears nothing of the old one.
        let injector = match (links.network, vm.network()) {
            (Some(wire), Some(network)) => {
                Some(Injector::spawn(wire, network).map_err(ReceiveError::Thread)?)
            }
            _ => None,
        };
        let may_miss = faults.is_some();
        let may_land = offer.populate || !may_miss;
        let bulk = BulkReceiver::spawn(links.bulk, vm.pages(), may_land, offer.digest, landed, halt)
            .map_err(ReceiveError::Thread)?;
        let room = if may_miss { PageSet::all(offer.vm.page_count) } else { PageSet::none() };
        let along = Staging::of(if may_miss { MAX_PAGES_ALONG as u64 } else { 0 });
        let (arrivals, stale) = (Arc::new(Arrivals::none(room)), Stale::room_for(&offer));
        let halt = halt.clone();
        Ok(Prepared { vm, offer, bulk, arrivals, faults, stale, along, injector, halt })
    }

    fn receive(
        mut self,
        mut control: Control,
        on_start: impl FnOnce(&VmDescription, EndNotice),
    ) -> Result<Arrival<V>, ReceiveError<V>> {
        let _ahead = FramesAhead::of(self.vm.network());
        // A vCPU that has just been started must not take the processor from the thread that started it, which has yet to
        // announce the guest.
        set_priority(Priority::Foremost);
        let start = self.load(&mut control).and_then(|arrivals| {
            let received = self.await_start(&mut control)?;
            arrivals.begin_running().map_err(|_| ReceiveError::Stopped)?;
            let paused = self.offer.vm.paused;
            if paused { self.vm.hold() } else { self.vm.start() }.map_err(ReceiveError::Start)?;
            let elapsed = received.elapsed();
            control.outlast();
            // One that is paused is announced when it runs.
            if let Some(injector) = self.injector.as_ref().filter(|_| !paused) {
                injector.announce();
            }
            Ok((arrivals, elapsed))
        });
        let (arrivals, start) = match start {
            Ok(started) => started,
            Err(error) => {
                let error = self.bulk.reason_behind(error, &mut control);
                // Threads of the next machine must not be born urgent.
                set_priority(Priority::Normal);
                return Err(call_off(&mut control, error));
            }
        };
        // The guest runs here, whether the source hears of it or not.
        control.send(&FromDestination::Running { start_us: micros(start) }).ok();
        set_priority(Priority::Normal);
        let end = EndNotice::default();
        on_start(&self.offer.vm.clone().into(), end.clone());
        self.finish(control, &arrivals, &end)
    }

    /// Takes in the state and all that must be there, and says so.
    fn load(&mut self, control: &mut Control) -> Result<Arc<Arrivals>, ReceiveError<V>> {
        let message = await_state(control)?;
        if message.along.pages.len() > self.along.len() {
            return Err(ReceiveError::MissingSet);
        }
        control.receive_pages(RunBytes::of_buffer(self.along.pages(message.along.pages.len() as u64)))?;
        let begin = Instant::now();
        let landed = self.bulk.stage_end(&self.halt).map_err(ReceiveError::Pages)?;
        let pages_us = micros(begin.elapsed());
        let arrivals = self.expect(&message, landed)?;

        let begin = Instant::now();
        if let Some(expected) = message.digest {
            let pages = self.vm.pages();
            // SAFETY: the guest has not started, and the receiver has come to the end of its stage.
            let digest = || unsafe { crate::pages::digest_of(&*pages) };
            let found = match arrivals.remaining() {
                // All processors work at it for a while: too much to come before everybody.
                0 => at_priority(Priority::Urgent, digest),
                // Of what is there: it was kept as that came.
                _ => arrivals.digest().unwrap_or_default(),
            };
            if found != expected {
                return Err(ReceiveError::Digest { found, expected });
            }
        }
        let verify_us = micros(begin.elapsed());

        let begin = Instant::now();
        self.vm.load_state(&message.state).map_err(ReceiveError::Load)?;
        let load_us = micros(begin.elapsed());
        control.send(&FromDestination::Loaded(LoadTimes { pages_us, verify_us, load_us }))?;
        // While the word to start is on its way: a client sees what came before, then what the guest writes here.
        if let Some(console) = self.vm.console() {
            console.add(&std::mem::take(&mut self.offer.console));
            console.add(&message.console);
        }
        Ok(arrivals)
    }

    /// From here on missing pages are known, waited for and installed.
    fn expect(
        &mut self,
        message: &StateMessage,
        mut landed: Option<Digest>,
    ) -> Result<Arc<Arrivals>, ReceiveError<V>> {
        if message.missing != Missing::Nothing && self.faults.is_none() {
            return Err(ReceiveError::MissingSet);
        }
        if let Some(faults) = &self.faults {
            self.stale.empty(message, &*self.vm.pages(), &mut landed, &**faults.missing())?;
        }
        let arrivals = Arc::get_mut(&mut self.arrivals).expect("handed out below, once");
        arrivals.expect(&message.missing, landed).ok_or(ReceiveError::MissingSet)?;
        if let Some(faults) = &self.faults {
            let bytes = self.along.pages(message.along.pages.len() as u64);
            let installed = arrivals.install_along(&message.along, bytes, &**faults.missing());
            installed.map_err(ReceiveError::Pages)?;
            faults.begin(&self.arrivals, self.bulk.link());
            self.bulk.begin_installing(&self.arrivals, faults.missing());
        }
        Ok(self.arrivals.clone())
    }

    /// Waits for the word to start, and takes what only one machine may hold. Returns when the word came; the guest may
    /// be started at once, and only then.
    ///
    /// The source waits for the answer for a limited time. It cannot have said Start before it read this side's last
    /// word, so a Start that is younger than that word and its validity still holds. An older one is asked about, and a
    /// source that is gone is not obeyed: it may have let its guest run.
    fn await_start(&mut self, control: &mut Control) -> Result<Instant, ReceiveError<V>> {
        let mut last_word = since_boot();
        let mut is_claimed = false;
        loop {
            let valid = match control.receive()? {
                FromSource::Start { valid_ms } => Duration::from_millis(valid_ms.into()),
                other => return Err(ReceiveError::unexpected(other)),
            };
            let received = Instant::now();
            if !is_claimed {
                self.vm.claim().map_err(ReceiveError::Start)?;
                is_claimed = true;
            }
            if control.wire().has_ended() {
                return Err(ReceiveError::Withdrawn);
            }
            if since_boot().saturating_sub(last_word) < valid {
                return Ok(received);
            }
            last_word = since_boot();
            control.send(&FromDestination::Confirm)?;
        }
    }

    /// Waits until nothing is missing, and tells the source.
    fn finish(
        self,
        mut control: Control,
        arrivals: &Arrivals,
        end: &EndNotice,
    ) -> Result<Arrival<V>, ReceiveError<V>> {
        let mut statistics = FaultStatistics::default();
        if let Some(faults) = self.faults {
            let missing = faults.missing().clone();
            let mut ended = None;
            while ended.is_none() && arrivals.wait(TICK) {
                if let Some(lost) = arrivals.take_lost()
                    && control.send(&FromDestination::Resend(lost)).is_err()
                {
                    arrivals.give_up(&*missing);
                }
                ended = end.taken();
            }
            let served = faults.finish();
            if let Some(end) = ended {
                // A source that does not hear it finds its links closed.
                control.send(&FromDestination::Ended(end.clone().into())).ok();
                return Err(ReceiveError::Ended { end });
            }
            let missing_pages = arrivals.remaining();
            if missing_pages > 0 {
                let cause = self.bulk.take_error().or(served.err());
                return Err(ReceiveError::Interrupted {
                    vm: Box::new(self.vm),
                    description: Box::new(self.offer.vm.into()),
                    missing_pages,
                    cause,
                });
            }
            // Whoever touched a page meanwhile that never held anything is let go by this.
            missing.unwatch().map_err(|error| ReceiveError::Pages(SinkError::Install(error)))?;
            statistics = served.unwrap_or_default();
        }
        let faults = statistics.clone().into();
        let complete = FromDestination::Complete { digest: arrivals.digest(), faults };
        // A source that does not hear it says "interrupted"; the guest is whole here all the same.
        if let Err(error) = control.send(&complete) {
            tracing::warn!(error = in_words(&error), "the source did not hear that it is free of duty");
        }
        // Nothing of the migration is left when the VM is handed out.
        self.bulk.finish();
        if let Some(injector) = self.injector {
            injector.finish();
        }
        Ok(Arrival { vm: self.vm, description: self.offer.vm.into(), faults: statistics })
    }
}

/// Answers probes until the state comes.
fn await_state<V>(control: &mut Control) -> Result<StateMessage, ReceiveError<V>> {
    loop {
        match control.receive()? {
            FromSource::Probe => control.send(&FromDestination::Probe)?,
            FromSource::State(state) => return Ok(state),
            other => return Err(ReceiveError::unexpected(other)),
        }
    }
}

/// How often the start is rehearsed: the first time everything is cold.
const REHEARSALS: u32 = 3;
/// How long to wait for the reason why a link ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How often a thread that waits for another looks whether it should go on.
const TICK: Duration = Duration::from_millis(20);
