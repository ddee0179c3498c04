//! Opening a migration: links, the offer, and all that can be measured and made ready before the
//! guest notices anything.

use std::{
    cell::OnceCell,
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Control, Duty, MigrateError, Migration, carry::Carrier, push::PageServer, send};
use crate::{
    options::{Options, Verify},
    pages::{GuestPages, PageSet, PageStream},
    progress::{Phase, Progress},
    protocol::{
        Capabilities, ControlLink, FromDestination, FromSource, GREETING_BYTES, Greeting, GreetingError,
        MigrationId, Offer, Role,
    },
    strategy::Needs,
    timeline::{DowntimeParts, Timeline, micros},
    transport::{Connector, Interrupt, Lane, Limit, Throttle, Wire},
    vm::{ConsoleToGo, PausedVm, SourceVm},
};

/// How long it may take to make a machine and back its memory.
const OFFER_PATIENCE: Duration = Duration::from_secs(120);
/// How long page data may stand still before the destination counts as stuck.
const BULK_PATIENCE: Duration = Duration::from_secs(30);
/// How long a network frame may take: a guest that runs on here waits for the end of that.
const FRAME_PATIENCE: Duration = Duration::from_secs(1);
const PROBES: usize = 5;
const REHEARSALS: usize = 4;
const QUICK_REHEARSAL: Duration = Duration::from_millis(1);
/// No more rehearsals once a guest has stood still for so long in them.
const LONG_REHEARSALS: Duration = Duration::from_millis(20);

/// The part of a switchover that does not depend on how many pages it moves, as measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed {
    /// Pausing, in a rehearsal.
    pub pause: Duration,
    /// Saving the state, in the same rehearsal.
    pub save_state: Duration,
    /// Loading that state at the destination.
    pub load: Duration,
    /// A small message there and back.
    pub round_trip: Duration,
}

impl Fixed {
    /// One way for pages and state, back with *loaded*, and there with *start*.
    pub fn total(&self) -> Duration {
        self.pause + self.save_state + self.load + self.travel()
    }

    /// What of it is the way there and back.
    pub fn travel(&self) -> Duration {
        self.round_trip * 3 / 2
    }

    /// As parts of a downtime in which the pages take `pages`.
    pub fn parts(&self, pages: Duration) -> DowntimeParts {
        DowntimeParts {
            pause: micros(self.pause),
            save_state: micros(self.save_state),
            final_pages: micros(pages),
            transfer: micros(self.round_trip),
            verify: 0,
            load: micros(self.load),
            start: micros(self.round_trip / 2),
        }
    }
}

impl<'vm> Migration<'vm> {
    pub(super) fn open(
        vm: &'vm mut dyn SourceVm,
        connector: &dyn Connector,
        needs: Needs,
        options: &Options,
        interrupt: &Interrupt,
        progress: &Arc<Progress>,
        mut timeline: Timeline,
    ) -> Result<Migration<'vm>, MigrateError> {
        let (patience, peer_timeout) = (options.answer_timeout, options.peer_timeout);
        let (migration, agreed) = (new_id()?, OnceCell::new());
        let links = Links { connector, interrupt, migration, patience, peer_timeout, agreed };
        let mut control = Control::new(links.open(Role::Control)?);
        let ready = match make_ready(vm, &links, &mut control, needs, options, progress) {
            Ok(ready) => ready,
            Err(error) => {
                let error = error.by(interrupt);
                super::say_abort(&mut control, &error);
                return Err(error);
            }
        };
        timeline.ready = Some(Instant::now());
        let Ready { pages, bulk, server, carrier, console, fixed } = ready;
        Ok(Migration {
            page_count: pages.page_count(),
            is_logged: false,
            looked_at: PageSet::empty(pages.page_count()),
            log_emptied: Instant::now(),
            known: None,
            vm,
            pages,
            control,
            bulk,
            server,
            carrier,
            console,
            options: options.clone(),
            progress: progress.clone(),
            timeline,
            fixed,
            duty: Duty::Source,
        })
    }
}

/// What a migration has before its first page moves.
struct Ready {
    pages: Arc<dyn GuestPages>,
    bulk: PageStream,
    server: Option<PageServer>,
    carrier: Option<Carrier>,
    console: ConsoleToGo,
    fixed: Fixed,
}

/// Offers the VM and opens the other links.
fn make_ready(
    vm: &mut dyn SourceVm,
    links: &Links<'_>,
    control: &mut Control,
    needs: Needs,
    options: &Options,
    progress: &Arc<Progress>,
) -> Result<Ready, MigrateError> {
    let interrupt = links.interrupt;
    progress.begin(Phase::Preparing, 0);
    let pages = vm.pages();
    let Rehearsal { state, pause, save_state } = rehearse(vm, progress)?;
    let mut console = ConsoleToGo::of(vm);
    let load = offer(control, vm, links.bulk_links(), needs, options, state, console.next())?;
    let throttle = options.max_bandwidth.map(|rate| Arc::new(Throttle::new(rate)));
    let limit =
        |lane| throttle.clone().map(|throttle| Limit { throttle, lane, interrupt: interrupt.clone() });
    let mut bulk = PageStream::new(links.open(Role::Bulk)?, limit(Lane::Bulk));
    bulk.wire().set_patience(Some(BULK_PATIENCE));
    let server = match needs.missing_pages {
        true => {
            let urgent = PageStream::new(links.open(Role::Urgent)?, limit(Lane::Urgent));
            Some(PageServer::spawn(urgent, pages.clone(), progress.clone(), bulk.wire()).map_err(send)?)
        }
        false => None,
    };
    let carrier = match vm.network() {
        Some(network) => {
            let mut wire = links.open(Role::Network)?;
            wire.set_patience(Some(FRAME_PATIENCE));
            Some(Carrier::spawn(wire, network).map_err(send)?)
        }
        None => None,
    };
    control.wire().set_patience(Some(links.patience));
    let fixed = Fixed { pause, save_state, load, round_trip: probe(control)? };
    Ok(Ready { pages, bulk, server, carrier, console, fixed })
}

pub(super) struct Links<'a> {
    pub connector: &'a dyn Connector,
    pub interrupt: &'a Interrupt,
    pub migration: MigrationId,
    /// How long a greeting may take.
    pub patience: Duration,
    /// How long a peer may be unheard of.
    pub peer_timeout: Duration,
    /// What both sides can do, once a link is open: the same on all of them.
    pub agreed: OnceCell<Capabilities>,
}

impl Links<'_> {
    /// Connects and exchanges greetings.
    pub fn open(&self, role: Role) -> Result<Box<dyn Wire>, MigrateError> {
        let address = || self.connector.address();
        let connect = |source| MigrateError::Connect { address: address(), source };
        let mut wire = self.connector.connect(self.interrupt).map_err(connect)?;
        wire.set_peer_timeout(Some(self.peer_timeout));
        wire.set_patience(Some(self.patience));
        wire.set_deadline(Some(self.patience));
        let greeting = Greeting::new(self.migration, role);
        wire.send(&greeting.encode()).map_err(connect)?;
        let mut answer = [0; GREETING_BYTES];
        // Its first words tell another service apart, even one that says less than a greeting.
        wire.receive(&mut answer[..8]).map_err(connect)?;
        let wrong = |source| MigrateError::Greeting { address: address(), source };
        Greeting::check_magic(&answer).map_err(wrong)?;
        wire.receive(&mut answer[8..]).map_err(connect)?;
        let agreed = greeting.check_answer(&answer).map_err(wrong)?;
        if *self.agreed.get_or_init(|| agreed) != agreed {
            return Err(wrong(GreetingError::Mixed));
        }
        wire.set_deadline(None);
        Ok(wire)
    }

    /// How many bulk links both sides can have.
    fn bulk_links(&self) -> u8 {
        self.agreed.get().map_or(Capabilities::OURS.bulk_links, |agreed| agreed.bulk_links)
    }
}

fn new_id() -> Result<MigrationId, MigrateError> {
    let mut id = MigrationId::default();
    let random = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut id));
    random.map_err(|source| MigrateError::Link { operation: "make an id from /dev/urandom", source })?;
    Ok(id)
}

/// Pauses, saves the state and lets the guest run on: a gap of a fraction of a millisecond, before
/// anything depends on it. Where the host was busy with something else it is done again, for a
/// stray delay must not count as what a switchover takes; but not where each one takes long, as draining a slow disk does:
/// the guest is paused meanwhile.
fn rehearse(vm: &mut dyn SourceVm, progress: &Progress) -> Result<Rehearsal, MigrateError> {
    let mut quickest: Option<Rehearsal> = None;
    let mut stood_still = Duration::ZERO;
    for _ in 0..REHEARSALS {
        let begin = Instant::now();
        let mut paused_vm = PausedVm::pause(vm)?;
        let pause = begin.elapsed();
        let state = paused_vm.save_state()?;
        let save_state = begin.elapsed() - pause;
        // A guest that could not be resumed is not moved, but said to be paused.
        paused_vm.resume()?;
        stood_still += begin.elapsed();
        progress.update(|now| now.rehearsal_us = micros(stood_still));
        let this = Rehearsal { state, pause, save_state };
        let took = this.took();
        if quickest.as_ref().is_none_or(|best| took < best.took()) {
            quickest = Some(this);
        }
        if took < QUICK_REHEARSAL || stood_still >= LONG_REHEARSALS {
            break;
        }
    }
    Ok(quickest.expect("at least one rehearsal"))
}

/// A state that was saved, and what that took.
struct Rehearsal {
    state: Vec<u8>,
    pause: Duration,
    save_state: Duration,
}

impl Rehearsal {
    fn took(&self) -> Duration {
        self.pause + self.save_state
    }
}

/// Offers the VM. Returns how long loading its state took.
fn offer(
    control: &mut Control,
    vm: &dyn SourceVm,
    bulk_links: u8,
    needs: Needs,
    options: &Options,
    rehearsal: Vec<u8>,
    console: Vec<u8>,
) -> Result<Duration, MigrateError> {
    control.wire().set_patience(Some(OFFER_PATIENCE));
    control.send(&FromSource::Offer(Offer {
        vm: vm.describe().into(),
        bulk_links,
        may_miss_pages: needs.missing_pages,
        has_network: vm.network().is_some(),
        populate: needs.pages_before_start,
        // What is missing at the start can only be compared as it was installed.
        digest: match options.verify {
            Verify::No => false,
            Verify::BeforeStart => needs.missing_pages,
            Verify::AfterStart => true,
        },
        rehearsal,
        console,
    }))?;
    match control.receive()? {
        FromDestination::Accepted { load_us } => Ok(Duration::from_micros(load_us)),
        other => Err(MigrateError::unexpected(other)),
    }
}

/// The quickest of a few round trips: what a message takes when nothing is in its way.
fn probe(control: &mut ControlLink<FromSource, FromDestination>) -> Result<Duration, MigrateError> {
    let mut best = Duration::MAX;
    for _ in 0..PROBES {
        let begin = Instant::now();
        control.send(&FromSource::Probe)?;
        match control.receive()? {
            FromDestination::Probe => best = best.min(begin.elapsed()),
            other => return Err(MigrateError::unexpected(other)),
        }
    }
    Ok(best)
}
