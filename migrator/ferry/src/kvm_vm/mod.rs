//! Ferry's own machine behind the engine's seam: only here the engine knows `vmm`.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use vmm::{Backend, CpuModel, DiskError, LandingArea, Vm, VmConfig};

pub use self::host::KvmHost;
use self::{
    description::Machine,
    network::KvmNetwork,
    pages::{KvmMissing, KvmPages},
};
use engine::{
    pages::{GuestPages, PageNumber, PageSet},
    vm::{
        Announcer, ConsoleHistory, DestinationVm, KeptConsole, MissingPages, Network, PAGES_MISSING,
        SourceVm, VmDescription, VmError,
    },
};

mod description;
mod host;
mod network;
mod pages;

/// The kind of machine, as descriptions name it.
pub const KIND: &str = "kvm";

/// A KVM machine that can be moved.
pub struct KvmVm {
    name: String,
    image: Option<String>,
    vm: Vm,
    pages: Arc<KvmPages>,
    /// It came here paused: where it is was not announced yet.
    is_unannounced: bool,
    console: KeptConsole,
    /// Where missing pages will be received, once it is backed.
    landing: Option<LandingArea>,
}

impl KvmVm {
    /// A machine with nothing in it; `backends` are what its devices need of this host, in their order.
    ///
    /// # Errors
    /// Whatever `vmm` says.
    pub fn new(
        name: &str,
        config: &VmConfig,
        cpu: &CpuModel,
        backends: Vec<Backend>,
    ) -> Result<KvmVm, VmError> {
        let vm = Vm::new(config, cpu, backends).map_err(VmError::new("make a machine"))?;
        let pages = Arc::new(KvmPages(vm.memory().clone()));
        Ok(KvmVm {
            name: name.to_owned(),
            image: None,
            vm,
            pages,
            is_unannounced: false,
            console: KeptConsole::default(),
            landing: None,
        })
    }

    /// Says what was booted in it, for whoever lists VMs where it goes.
    pub fn set_image(&mut self, image: Option<String>) {
        self.image = image;
    }

    /// The machine itself, for what is no concern of a migration.
    pub fn machine(&self) -> &Vm {
        &self.vm
    }

    /// Where it finds what its guest wrote to its console.
    pub fn kept_console(&self) -> &KeptConsole {
        &self.console
    }

    /// A guest whose memory has holes is never run, saved or sent from here: what is missing would become zeros.
    fn check_whole(&self, operation: &'static str) -> Result<(), VmError> {
        match self.vm.memory().has_missing_pages() {
            true => Err(VmError { operation, source: PAGES_MISSING.into() }),
            false => Ok(()),
        }
    }

    /// The machine itself, to boot it.
    pub fn machine_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl SourceVm for KvmVm {
    fn describe(&self) -> VmDescription {
        let (cpu, devices) = (self.vm.cpu().clone(), self.vm.config().devices.clone());
        let machine = Machine { cpu, devices }.encode();
        VmDescription {
            name: self.name.clone(),
            kind: KIND.to_owned(),
            page_count: self.pages.page_count(),
            vcpus: self.vm.config().vcpus,
            image: self.image.clone(),
            paused: false,
            machine: machine.expect("plain numbers are always encoded"),
        }
    }

    fn pages(&self) -> Arc<dyn GuestPages> {
        self.pages.clone()
    }

    fn start_dirty_log(&mut self) -> Result<(), VmError> {
        self.check_whole("start the dirty log")?;
        self.vm.start_dirty_log().map_err(VmError::new("start the dirty log"))
    }

    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError> {
        self.vm.harvest_dirty(dirty.words_mut()).map_err(VmError::new("take the dirty log"))?;
        dirty.clear_tail();
        Ok(())
    }

    fn stop_dirty_log(&mut self) -> Result<(), VmError> {
        self.vm.stop_dirty_log().map_err(VmError::new("stop the dirty log"))
    }

    fn pause(&mut self) -> Result<(), VmError> {
        self.vm.pause().map_err(VmError::new("pause the vCPUs"))?;
        if self.vm.events().has_ended() {
            // Its end is told on this side: a guest without vCPUs would arrive at the other.
            self.vm.resume().map_err(VmError::new("resume the vCPUs"))?;
            return Err(VmError { operation: "pause the vCPUs", source: "the guest has ended".into() });
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), VmError> {
        self.check_whole("resume the vCPUs")?;
        self.vm.resume().map_err(VmError::new("resume the vCPUs"))?;
        if mem::take(&mut self.is_unannounced)
            && let Some(network) = network(&self.vm)
        {
            match Announcer::spawn(network) {
                Ok(announcer) => announcer.announce(),
                // The network learns by the guest's own frames then.
                Err(error) => tracing::warn!(%error, "the guest's new place was not announced"),
            }
        }
        Ok(())
    }

    fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        self.check_whole("save the machine's state")?;
        self.vm.save().map_err(VmError::new("save the machine's state"))
    }

    fn before_pause(&mut self) -> Result<(), VmError> {
        self.vm.sync_disks().map_err(VmError::new("write the guest's disks back"))
    }

    fn release(&mut self) -> Result<(), VmError> {
        self.vm.release_disks().map_err(VmError::new("let go of the guest's disks"))
    }

    fn first_pages(&self) -> Vec<PageNumber> {
        self.vm.first_pages().to_vec()
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        network(&self.vm)
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.console.get()
    }
}

impl DestinationVm for KvmVm {
    fn pages(&self) -> Arc<dyn GuestPages> {
        self.pages.clone()
    }

    fn populate(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        let memory = self.vm.memory();
        memory.populate_while(0..memory.page_count(), is_wanted).map_err(VmError::new("back guest memory"))
    }

    fn populate_landing(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        let area = LandingArea::new(self.vm.memory()).map_err(VmError::new("map a landing area"))?;
        area.populate_while(is_wanted).map_err(VmError::new("back the landing area"))?;
        self.landing = Some(area);
        Ok(())
    }

    fn discard(&mut self) -> Result<(), VmError> {
        let memory = self.vm.memory();
        memory.discard(0..memory.page_count()).map_err(VmError::new("empty guest memory"))
    }

    fn prepare_missing(&mut self) -> Result<Arc<dyn MissingPages>, VmError> {
        Ok(Arc::new(KvmMissing::prepare(self.vm.memory(), self.landing.take())?))
    }

    fn load_state(&mut self, state: &[u8]) -> Result<(), VmError> {
        self.vm.restore(state).map_err(VmError::new("load the machine's state"))
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        network(&self.vm)
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        self.console.get()
    }

    fn claim(&mut self) -> Result<(), VmError> {
        take_disks(&mut self.vm)
    }

    fn start(&mut self) -> Result<(), VmError> {
        self.vm.start();
        Ok(())
    }

    fn hold(&mut self) -> Result<(), VmError> {
        self.is_unannounced = true;
        Ok(())
    }
}

/// Takes the disks, which the source has just let go of: where they are shared over a network, that takes a moment to be
/// known.
fn take_disks(vm: &mut Vm) -> Result<(), VmError> {
    let begin = Instant::now();
    loop {
        match vm.take_disks() {
            Err(DiskError::Busy { .. }) if begin.elapsed() < DISK_PATIENCE => std::thread::sleep(DISK_TICK),
            taken => return taken.map_err(VmError::new("take the guest's disks")),
        }
    }
}

const DISK_PATIENCE: Duration = Duration::from_secs(2);
const DISK_TICK: Duration = Duration::from_millis(5);

fn network(vm: &Vm) -> Option<Arc<dyn Network>> {
    let ports = vm.network();
    (!ports.is_empty()).then(|| Arc::new(KvmNetwork::new(ports)) as Arc<dyn Network>)
}
