//! Who calls at a receiver, from its first byte on.
//!
//! ```text
//!   caller ──► greeting ──► offer ──► nobody is arriving: the engine takes it
//!                 │            └────► a VM is arriving: "busy with NAME from ADDRESS"
//!                 └──► a page link: goes to the VM that is arriving, if it is its own
//! ```
//!
//! One thread accepts, and each caller is greeted on a thread of its own that has a deadline. So a caller that says
//! nothing, or little at a time, keeps nobody else waiting.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Builder, Scope},
    time::{Duration, Instant},
};

use rustix::net::{Shutdown, getpeername, shutdown};

use super::{
    Control, ReceiveError, TICK, check_wanted,
    links::{DataLinks, GREETING_PATIENCE, greet, is_ended},
};
use crate::{
    protocol::{Capabilities, FromDestination, FromSource, Greeting, MigrationId, Offer, Role},
    report::in_words,
    transport::{Acceptor, Interrupt, Wire},
    vm::{MAX_NAME_BYTES, VmError, is_name},
};

/// How long a source may take for its whole offer, which holds the state of a rehearsal.
const OFFER_LIMIT: Duration = Duration::from_secs(15);
/// How long a source may take to open its other links.
const LINKS_LIMIT: Duration = Duration::from_secs(10);
/// How long a caller waits for the end of a try whose source is gone, before it hears that this side is busy.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How often callers' deadlines are looked at.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// How many callers are greeted at once. One more, and the oldest goes.
const MAX_CALLERS: usize = 16;

/// Accepts and greets callers, also while a VM is arriving.
pub struct Reception<'a> {
    desk: &'a Desk,
    landed: Arc<AtomicU64>,
}

/// A VM that wants to come, and its control link. Others hear "busy" until this is dropped.
pub(super) struct Visit<'a> {
    desk: &'a Desk,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those who have not said all yet.
    callers: Vec<Caller>,
    next_caller: u64,
    arriving: Option<Arriving>,
    /// Why nobody is accepted any more.
    failed: Option<io::Error>,
}

struct Caller {
    id: u64,
    link: OwnedFd,
    deadline: Instant,
}

struct Arriving {
    migration: MigrationId,
    /// What both sides can do, as said on the control link.
    agreed: Capabilities,
    /// `demo from 10.0.0.1`
    who: String,
    /// Tells whether its source is there still.
    link: Option<OwnedFd>,
    /// What the engine has not taken yet.
    offered: Option<(Control, Offer)>,
    links: Links,
}

#[derive(Default)]
struct Links {
    bulk: Option<Box<dyn Wire>>,
    urgent: Option<Box<dyn Wire>>,
    network: Option<Box<dyn Wire>>,
    /// The engine has them: no more are taken.
    are_taken: bool,
}

impl Reception<'_> {
    /// Accepts callers while `serve` runs.
    pub fn open<T>(
        acceptor: &mut dyn Acceptor,
        interrupt: &Interrupt,
        serve: impl FnOnce(&Reception<'_>) -> T,
    ) -> T {
        let (desk, closing) = (Desk::default(), interrupt.child(None));
        let (desk, closing) = (&desk, &closing);
        thread::scope(|scope| {
            let _closes = Closes { desk, closing };
            let accepts = move || desk.accept_all(scope, acceptor, closing);
            if let Err(error) = Builder::new().name("reception".to_owned()).spawn_scoped(scope, accepts) {
                desk.lock().failed = Some(error);
            }
            serve(&Reception { desk, landed: Arc::default() })
        })
    }

    /// Pages that have come for the VM that is arriving, counted each time they come.
    pub fn landed(&self) -> &Arc<AtomicU64> {
        &self.landed
    }

    /// Waits for a source with an offer.
    pub(super) fn next<V>(&self, halt: &Interrupt) -> Result<(Visit<'_>, Control, Offer), ReceiveError<V>> {
        let mut state = self.desk.lock();
        loop {
            let offered = state.arriving.as_mut().and_then(|arriving| arriving.offered.take());
            if let Some((mut control, offer)) = offered {
                self.landed.store(0, Ordering::Relaxed);
                control.wire().set_interrupt(halt);
                control.wire().set_patience(None);
                return Ok((Visit { desk: self.desk }, control, offer));
            }
            if halt.is_raised() {
                return Err(ReceiveError::Accept(io::ErrorKind::Interrupted.into()));
            }
            state.check_open().map_err(ReceiveError::Accept)?;
            state = self.desk.wait(state);
        }
    }
}

impl Visit<'_> {
    /// Waits for the migration's other links, as long as its source is there.
    pub fn links<V>(
        &self,
        control: &mut Control,
        offer: &Offer,
        halt: &Interrupt,
    ) -> Result<DataLinks, ReceiveError<V>> {
        let deadline = Instant::now() + LINKS_LIMIT;
        loop {
            let mut state = self.desk.lock();
            if let Some(links) = state.take_links(offer) {
                let wires = [Some(links.bulk), links.urgent, links.network].map(|wire| {
                    wire.map(|mut wire| {
                        wire.set_interrupt(halt);
                        wire.set_patience(None);
                        wire
                    })
                });
                let [bulk, urgent, network] = wires;
                let bulk = bulk.ok_or_else(|| ReceiveError::Accept(io::ErrorKind::NotConnected.into()))?;
                return Ok(DataLinks { bulk, urgent, network });
            }
            state.check_open().map_err(ReceiveError::Accept)?;
            drop(self.desk.wait(state));
            check_wanted(control, halt)?;
            if Instant::now() >= deadline {
                return Err(ReceiveError::Accept(io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.desk.lock().arriving = None;
        self.desk.changed.notify_all();
    }
}

/// Ends the wait for callers, and for what they say.
struct Closes<'a> {
    desk: &'a Desk,
    closing: &'a Interrupt,
}

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.closing.raise();
        self.desk.lock().callers.iter().for_each(Caller::hang_up);
    }
}

impl Caller {
    /// Its thread sees the end of the link.
    fn hang_up(&self) {
        // An error means that the link has ended.
        shutdown(&self.link, Shutdown::Both).ok();
    }
}

impl State {
    /// Nobody comes any more, and nobody is being greeted.
    fn check_open(&mut self) -> io::Result<()> {
        match self.failed.as_ref().filter(|_| self.callers.is_empty()) {
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Ok(()),
        }
    }

    fn take_links(&mut self, offer: &Offer) -> Option<DataLinks> {
        let links = &mut self.arriving.as_mut()?.links;
        let misses = |wanted: bool, link: &Option<Box<dyn Wire>>| wanted && link.is_none();
        if misses(offer.may_miss_pages, &links.urgent) || misses(offer.has_network, &links.network) {
            return None;
        }
        let bulk = links.bulk.take()?;
        links.are_taken = true;
        Some(DataLinks { bulk, urgent: links.urgent.take(), network: links.network.take() })
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    fn accept_all<'scope, 'env>(
        &'scope self,
        scope: &'scope Scope<'scope, 'env>,
        acceptor: &mut dyn Acceptor,
        closing: &'scope Interrupt,
    ) {
        loop {
            match acceptor.accept(closing, Some(LOOK_AROUND)) {
                Ok(wire) => self.greet_aside(scope, wire, closing),
                Err(_) if closing.is_raised() => return,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                // Another of its links, or another process, may give one back.
                Err(error) if is_shortage(&error) => {
                    tracing::warn!(error = in_words(&error), "a caller cannot be accepted now");
                    thread::sleep(LOOK_AROUND);
                }
                Err(error) => {
                    self.lock().failed = Some(error);
                    self.changed.notify_all();
                    return;
                }
            }
            let now = Instant::now();
            self.lock().callers.iter().filter(|caller| caller.deadline <= now).for_each(Caller::hang_up);
        }
    }

    fn greet_aside<'scope, 'env>(
        &'scope self,
        scope: &'scope Scope<'scope, 'env>,
        wire: Box<dyn Wire>,
        closing: &'scope Interrupt,
    ) {
        let link = match wire.as_fd().try_clone_to_owned() {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(error = in_words(&error), "a caller was turned away");
                return;
            }
        };
        let mut state = self.lock();
        let id = state.next_caller;
        state.next_caller += 1;
        if state.callers.len() >= MAX_CALLERS {
            state.callers.remove(0).hang_up();
        }
        state.callers.push(Caller { id, link, deadline: Instant::now() + GREETING_PATIENCE });
        drop(state);
        let greets = move || {
            let _leaves = Leaves { desk: self, id };
            self.greet_one(id, wire, closing);
        };
        if let Err(error) = Builder::new().name("greeter".to_owned()).spawn_scoped(scope, greets) {
            tracing::warn!(error = in_words(&error), "a caller was turned away");
            self.lock().callers.retain(|caller| caller.id != id);
        }
    }

    fn greet_one(&self, id: u64, wire: Box<dyn Wire>, closing: &Interrupt) {
        let Some((mut wire, greeting)) = greet(wire) else { return };
        if greeting.role != Role::Control {
            let mut state = self.lock();
            if let Some(arriving) = state.arriving.as_mut()
                && arriving.migration == greeting.migration
                && arriving.agreed == greeting.capabilities
                && !arriving.links.are_taken
            {
                // Within the same lock: this link's deadline is over when the engine has it.
                let links = &mut arriving.links;
                match greeting.role {
                    Role::Bulk => links.bulk = Some(wire),
                    Role::Urgent => links.urgent = Some(wire),
                    Role::Network => links.network = Some(wire),
                    Role::Control => {}
                }
                state.callers.retain(|caller| caller.id != id);
                self.changed.notify_all();
            }
            return;
        }
        self.put_off(id, OFFER_LIMIT);
        let address = address_of(&*wire);
        wire.set_patience(Some(OFFER_LIMIT));
        let mut control = Control::new(wire);
        let offer = match receive_offer(&mut control, greeting.capabilities) {
            Ok(offer) => offer,
            Err(error) => {
                tracing::warn!(error = in_words_of(&error), from = address, "a caller was turned away");
                super::call_off(&mut control, error);
                return;
            }
        };
        self.hand_over(id, control, offer, greeting, &address, closing);
    }

    /// Gives the offer to the engine, or tells the source that another VM is arriving.
    fn hand_over(
        &self,
        id: u64,
        mut control: Control,
        offer: Offer,
        greeting: Greeting,
        address: &str,
        closing: &Interrupt,
    ) {
        self.put_off(id, END_LIMIT * 2);
        let limit = Instant::now() + END_LIMIT;
        let mut state = self.lock();
        let busy = loop {
            match &state.arriving {
                None => break None,
                // The machine of a source that is gone is being dropped.
                Some(arriving) if arriving.is_over() && Instant::now() < limit && !closing.is_raised() => {}
                Some(arriving) => break Some(format!("busy with {}", arriving.who)),
            }
            state = self.wait(state);
        };
        match busy {
            None => {
                let link = control.wire().as_fd().try_clone_to_owned().ok();
                let who = format!("{} from {address}", offer.vm.name);
                let (offered, links) = (Some((control, offer)), Links::default());
                let Greeting { migration, capabilities: agreed, .. } = greeting;
                state.arriving = Some(Arriving { migration, agreed, who, link, offered, links });
                state.callers.retain(|caller| caller.id != id);
                self.changed.notify_all();
            }
            Some(reason) => {
                drop(state);
                control.send(&FromDestination::Refused { reason }).ok();
            }
        }
    }

    /// A caller has this long from now on.
    fn put_off(&self, id: u64, limit: Duration) {
        if let Some(caller) = self.lock().callers.iter_mut().find(|caller| caller.id == id) {
            caller.deadline = Instant::now() + limit;
        }
    }
}

impl Arriving {
    fn is_over(&self) -> bool {
        self.link.as_ref().is_some_and(|link| is_ended(link.as_fd()))
    }
}

/// A caller is greeted no more, however that ended.
struct Leaves<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.desk.lock().callers.retain(|caller| caller.id != self.id);
        self.desk.changed.notify_all();
    }
}

fn receive_offer(control: &mut Control, agreed: Capabilities) -> Result<Offer, ReceiveError<()>> {
    match control.receive()? {
        FromSource::Offer(offer) if !is_name(&offer.vm.name) => {
            let refuse = VmError::new("take a VM of this name");
            let rule = format!(
                "use up to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.', a letter or digit first"
            );
            Err(ReceiveError::Refused(refuse(rule)))
        }
        FromSource::Offer(offer) if offer.vm.vcpus == 0 || offer.vm.page_count == 0 => {
            let refuse = VmError::new("take the VM");
            Err(ReceiveError::Refused(refuse("it has no vCPU or no memory")))
        }
        FromSource::Offer(offer) if !(1..=agreed.bulk_links).contains(&offer.bulk_links) => {
            let refuse = VmError::new("take the VM");
            let (wanted, most) = (offer.bulk_links, agreed.bulk_links);
            Err(ReceiveError::Refused(refuse(format!(
                "its source wants {wanted} bulk links instead of 1 to {most}"
            ))))
        }
        FromSource::Offer(offer) => Ok(offer),
        other => Err(ReceiveError::unexpected(other)),
    }
}

fn in_words_of(error: &ReceiveError<()>) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", in_words(cause)))
}

/// Where a caller is, without its port, which says nothing.
fn address_of(wire: &dyn Wire) -> String {
    let peer = getpeername(wire.as_fd()).ok().flatten();
    let ip = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok()).map(|peer| match peer.ip() {
        IpAddr::V6(ip) => ip.to_canonical(),
        ip @ IpAddr::V4(_) => ip,
    });
    ip.map_or_else(|| "this host".to_owned(), |ip| ip.to_string())
}

/// Nothing is wrong with the listener.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| shortages.contains(&code))
}
