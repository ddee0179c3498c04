//! The simulated machine behind the engine's seam.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    guest::{CLOCK_PAGE, DEVICE_PAGE, SimGuest, SimWorkload, World},
    machine::{Machine, Shared},
    memory::SimMemory,
    network::FRAMES_A_PAUSE,
};
use crate::{
    pages::{GuestPages, PAGE_SIZE, PageNumber, PageRun, PageSet},
    vm::{
        ConsoleHistory, DestinationVm, KeptConsole, MissingPages, Network, PAGES_MISSING, SourceVm,
        VmDescription, VmError,
    },
};

/// The kind of machine, as descriptions name it.
pub const KIND: &str = "simulated";

/// Steps of a repeatable guest that has just arrived.
const FIRST_STEPS: u64 = 40;

/// An operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// [`SourceVm::pause`]
    Pause,
    /// [`SourceVm::save_state`]
    Save,
    /// [`SourceVm::release`]
    Release,
    /// [`SourceVm::resume`], until it is mended by [`SimVm::mend`]
    Resume,
    /// [`SourceVm::take_dirty`]
    TakeDirty,
    /// [`DestinationVm::load_state`]
    Load,
    /// [`DestinationVm::claim`]
    Claim,
    /// [`DestinationVm::start`]
    Start,
}

/// A simulated machine. See [`super`].
pub struct SimVm {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// How many more times an operation succeeds.
    faults: BTreeMap<Fault, u32>,
    /// How long each bite of its memory takes to be backed.
    pub(super) populate_nap: Duration,
    /// How long taking its disks takes.
    pub(super) claim_nap: Duration,
    /// How long draining its devices takes.
    drain_nap: Duration,
    console: KeptConsole,
}

/// Looks at a simulated guest while its machine is borrowed.
#[derive(Clone)]
pub struct SimObserver(Arc<Shared>);

impl SimObserver {
    /// As [`SimVm::guest`].
    pub fn guest(&self) -> Option<SimGuest> {
        self.0.lock().guest.clone()
    }

    /// As [`SimVm::check`].
    pub fn check(&self) -> Option<SimGuest> {
        let mut machine = self.0.lock();
        let Machine { guest, log, .. } = &mut *machine;
        let guest = guest.as_mut()?;
        let mut world = World { memory: &self.0.memory, missing: &self.0.missing, log: log.as_mut() };
        guest.check_all(&mut world).ok()?;
        Some(guest.clone())
    }

    /// Types into the guest's console, which says each line again. Returns how many bytes were taken: all, or none while
    /// it does not run or is busy. Never waits.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let Some(mut machine) = self.0.try_lock() else { return 0 };
        let running = machine.running;
        let Some(guest) = machine.guest.as_mut().filter(|_| running) else { return 0 };
        let answer = guest.hear(bytes);
        // Under the machine's lock: what a guest said is there before its state is saved.
        self.0.say(&answer);
        bytes.len()
    }

    /// Sends what the guest writes to its console to `sink`, which must not block.
    pub fn set_console_output(&self, sink: Box<dyn Write + Send>) {
        self.0.set_console_output(sink);
    }
}

/// What a destination must know of the kind.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    workload: SimWorkload,
}

impl SimVm {
    /// A machine whose guest has filled its memory and runs.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn boot(name: &str, page_count: u64, workload: SimWorkload) -> Result<SimVm, VmError> {
        let vm = SimVm::empty(name, page_count)?;
        let guest = SimGuest::new(workload, page_count);
        guest.fill(&vm.shared.memory);
        vm.shared.lock().guest = Some(guest);
        let mut vm = vm;
        vm.run()?;
        Ok(vm)
    }

    pub(super) fn empty(name: &str, page_count: u64) -> Result<SimVm, VmError> {
        if page_count < 8 {
            return Err(VmError { operation: "make a simulated machine", source: "it needs 8 pages".into() });
        }
        let shared = Shared::new(page_count).map_err(VmError::new("map and watch memory"))?;
        Ok(SimVm {
            name: name.to_owned(),
            shared: Arc::new(shared),
            thread: None,
            faults: BTreeMap::new(),
            populate_nap: Duration::ZERO,
            claim_nap: Duration::ZERO,
            drain_nap: Duration::ZERO,
            console: KeptConsole::default(),
        })
    }

    /// Makes an operation fail once, after it has succeeded `successes` times.
    pub fn fail_after(&mut self, fault: Fault, successes: u32) {
        self.faults.insert(fault, successes);
    }

    /// Lets an operation succeed again.
    pub fn mend(&mut self, fault: Fault) {
        self.faults.remove(&fault);
    }

    /// Its devices take so long to drain, as on a slow disk.
    pub fn drain_slowly(&mut self, nap: Duration) {
        self.drain_nap = nap;
    }

    /// Waits until a repeatable guest that has just arrived has made its first steps.
    pub fn await_first_steps(&mut self) {
        let is_repeatable = self.guest().is_some_and(|guest| guest.workload.rate.is_none());
        if let Some(thread) = self.thread.take_if(|_| is_repeatable) {
            // If it panicked it has said so.
            thread.join().ok();
        }
    }

    /// Whether the guest runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().running
    }

    /// What the guest knows; nothing before it was loaded.
    pub fn guest(&self) -> Option<SimGuest> {
        self.shared.lock().guest.clone()
    }

    /// Checks every page by the guest's own knowledge. Returns the guest, who counts errors.
    pub fn check(&self) -> Option<SimGuest> {
        self.observer().check()
    }

    /// A handle of its own on the guest, to look at it while the machine is borrowed.
    pub fn observer(&self) -> SimObserver {
        SimObserver(self.shared.clone())
    }

    /// The number of the next frame that will be sent to the guest: how many were, if it has a network.
    pub fn frames_sent(&self) -> u64 {
        self.shared.network.lock().next
    }

    /// Whether its frames go ahead of others now, and whether they ever did.
    pub fn frames_ahead(&self) -> (bool, bool) {
        let network = self.shared.network.lock();
        (network.is_ahead, network.was_ahead)
    }

    /// Where it finds what its guest wrote to its console.
    pub fn kept_console(&self) -> &KeptConsole {
        &self.console
    }

    /// How often the network was told that the guest is here.
    pub fn announcements(&self) -> u32 {
        self.shared.network.lock().announcements
    }

    fn trip(&mut self, fault: Fault, operation: &'static str) -> Result<(), VmError> {
        match self.faults.get_mut(&fault) {
            Some(0) => {
                if fault != Fault::Resume {
                    self.faults.remove(&fault);
                }
                Err(VmError { operation, source: "a simulated fault".into() })
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// As a real machine: one whose memory has holes is never run, saved or sent from here.
    fn check_whole(&self, operation: &'static str) -> Result<(), VmError> {
        match self.shared.missing.is_watched() {
            true => Err(VmError { operation, source: PAGES_MISSING.into() }),
            false => Ok(()),
        }
    }

    fn populate_all(&self, memory: &SimMemory, is_wanted: &dyn Fn() -> bool) -> Result<(), VmError> {
        let populated = memory.populate_while(|| {
            std::thread::sleep(self.populate_nap);
            is_wanted()
        });
        populated.map_err(VmError::new("populate memory"))
    }

    /// Lets the guest run; one that lives in real time, or has pages to wait for, on its own thread.
    fn run(&mut self) -> Result<(), VmError> {
        if let (Some(rate), None) = (self.shared.run(), &self.thread) {
            let shared = self.shared.clone();
            let thread = Builder::new().name("sim-guest".to_owned()).spawn(move || shared.live(rate));
            self.thread = Some(thread.map_err(VmError::new("start the guest's thread"))?);
        }
        Ok(())
    }
}

impl SourceVm for SimVm {
    fn describe(&self) -> VmDescription {
        let workload = self.shared.lock().guest.as_ref().map(|guest| guest.workload);
        let machine = workload.and_then(|workload| postcard::to_stdvec(&Description { workload }).ok());
        VmDescription {
            name: self.name.clone(),
            kind: KIND.to_owned(),
            page_count: self.shared.memory.page_count(),
            vcpus: 1,
            image: Some("sim".to_owned()),
            paused: false,
            machine: machine.unwrap_or_default(),
        }
    }

    fn pages(&self) -> Arc<dyn GuestPages> {
        self.shared.clone()
    }

    fn start_dirty_log(&mut self) -> Result<(), VmError> {
        self.check_whole("start the dirty log")?;
        self.shared.lock().log = Some(PageSet::all(self.shared.memory.page_count()));
        Ok(())
    }

    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError> {
        self.trip(Fault::TakeDirty, "take the dirty log")?;
        let mut machine = self.shared.lock();
        let log = machine.log.as_mut();
        let log = log.ok_or(VmError { operation: "take the dirty log", source: "it is off".into() })?;
        dirty.union_with(log);
        log.clear();
        Ok(())
    }

    fn stop_dirty_log(&mut self) -> Result<(), VmError> {
        self.shared.lock().log = None;
        Ok(())
    }

    fn pause(&mut self) -> Result<(), VmError> {
        self.trip(Fault::Pause, "pause")?;
        if self.is_running() {
            std::thread::sleep(self.drain_nap);
        }
        let mut machine = self.shared.lock();
        machine.running = false;
        if let Some(guest) = machine.guest.as_ref().filter(|guest| guest.workload.network) {
            self.shared.network.lock().send_to_guest(guest.next_frame, FRAMES_A_PAUSE);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), VmError> {
        self.check_whole("resume")?;
        self.trip(Fault::Resume, "resume")?;
        self.run()
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        self.shared.has_network().then(|| self.shared.clone() as Arc<dyn Network>)
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.console.get()
    }

    fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        self.check_whole("save the state")?;
        self.trip(Fault::Save, "save the state")?;
        let mut machine = self.shared.lock();
        let Machine { guest, log, .. } = &mut *machine;
        let guest =
            guest.as_mut().ok_or(VmError { operation: "save the state", source: "no guest".into() })?;
        guest.saves += 1;
        let mut page = [0; PAGE_SIZE];
        page[..4].copy_from_slice(&guest.saves.to_le_bytes());
        let mut world =
            World { memory: &self.shared.memory, missing: &self.shared.missing, log: log.as_mut() };
        world
            .write(DEVICE_PAGE, &page)
            .map_err(|_| VmError { operation: "save a device", source: "abandoned".into() })?;
        postcard::to_stdvec(guest).map_err(VmError::new("encode the state"))
    }

    fn before_pause(&mut self) -> Result<(), VmError> {
        Ok(())
    }

    fn release(&mut self) -> Result<(), VmError> {
        self.trip(Fault::Release, "let go of the disks")
    }

    fn first_pages(&self) -> Vec<PageNumber> {
        // Enough to be of use, and one that the device wrote just now.
        vec![DEVICE_PAGE, 5]
    }
}

impl DestinationVm for SimVm {
    fn pages(&self) -> Arc<dyn GuestPages> {
        self.shared.clone()
    }

    fn populate(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        self.populate_all(&self.shared.memory, is_wanted)
    }

    fn populate_landing(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        self.shared.missing.area().map_or(Ok(()), |area| self.populate_all(area, is_wanted))
    }

    fn discard(&mut self) -> Result<(), VmError> {
        let memory = &self.shared.memory;
        memory.discard(PageRun::new(0, memory.page_count())).map_err(VmError::new("discard memory"))
    }

    fn prepare_missing(&mut self) -> Result<Arc<dyn MissingPages>, VmError> {
        Ok(self.shared.missing.clone())
    }

    fn load_state(&mut self, state: &[u8]) -> Result<(), VmError> {
        self.trip(Fault::Load, "load the state")?;
        let guest: SimGuest = postcard::from_bytes(state).map_err(VmError::new("decode the state"))?;
        let clock = [0x5a; PAGE_SIZE];
        let mut world = World { memory: &self.shared.memory, missing: &self.shared.missing, log: None };
        world
            .write(CLOCK_PAGE, &clock)
            .map_err(|_| VmError { operation: "write the clock", source: "abandoned".into() })?;
        self.shared.lock().guest = Some(guest);
        Ok(())
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        self.shared.has_network().then(|| self.shared.clone() as Arc<dyn Network>)
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.console.get()
    }

    fn claim(&mut self) -> Result<(), VmError> {
        std::thread::sleep(self.claim_nap);
        self.trip(Fault::Claim, "take the disks")
    }

    fn start(&mut self) -> Result<(), VmError> {
        self.trip(Fault::Start, "start")?;
        self.run()?;
        if self.thread.is_none() {
            // A repeatable guest makes its first steps here at once, whatever is missing.
            let shared = self.shared.clone();
            let first_steps = move || drop(shared.steps(&mut shared.lock(), FIRST_STEPS));
            let thread = Builder::new().name("sim-guest".to_owned()).spawn(first_steps);
            self.thread = Some(thread.map_err(VmError::new("start the guest's thread"))?);
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<(), VmError> {
        self.trip(Fault::Start, "start")
    }
}

impl Drop for SimVm {
    fn drop(&mut self) {
        self.shared.missing.abandon();
        self.shared.lock().ended = true;
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            thread.join().ok();
        }
    }
}
