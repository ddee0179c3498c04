//! Ferry's own machine behind the engine's seam: the only file here that knows `vmm`.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use vmm::{
    Backend, Backing, CpuModel, DeviceConfig, Disk, DiskError, GuestMemory, InjectError, LandingArea,
    NetPort, Tap, Vm, VmConfig,
};

use crate::{
    pages::{GuestPages, PAGE_SIZE, PageNumber, PageRun, PageSet, RunBytes},
    vm::{DestinationHost, DestinationVm, MissingPages, Network, SourceVm, VmDescription, VmError},
};

/// The kind of machine, as descriptions name it.
pub const KIND: &str = "kvm";

/// A KVM machine that can be moved.
pub struct KvmVm {
    name: String,
    vm: Vm,
    pages: Arc<KvmPages>,
}

/// What a destination must know of the kind.
#[derive(Serialize, Deserialize)]
struct Machine {
    cpu: CpuModel,
    devices: Vec<DeviceConfig>,
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
        Ok(KvmVm { name: name.to_owned(), vm, pages })
    }

    /// The machine itself, for what is no concern of a migration.
    pub fn machine(&self) -> &Vm {
        &self.vm
    }

    /// The machine itself, to boot it.
    pub fn machine_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl SourceVm for KvmVm {
    fn describe(&self) -> VmDescription {
        let (cpu, devices) = (self.vm.cpu().clone(), self.vm.config().devices.clone());
        let machine = postcard::to_stdvec(&Machine { cpu, devices });
        VmDescription {
            name: self.name.clone(),
            kind: KIND.to_owned(),
            page_count: self.pages.page_count(),
            vcpus: self.vm.config().vcpus,
            machine: machine.expect("plain numbers are always encoded"),
        }
    }

    fn pages(&self) -> Arc<dyn GuestPages> {
        self.pages.clone()
    }

    fn start_dirty_log(&mut self) -> Result<(), VmError> {
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
        self.vm.pause().map_err(VmError::new("pause the vCPUs"))
    }

    fn resume(&mut self) -> Result<(), VmError> {
        self.vm.resume().map_err(VmError::new("resume the vCPUs"))
    }

    fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
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
}

impl DestinationVm for KvmVm {
    fn pages(&self) -> Arc<dyn GuestPages> {
        self.pages.clone()
    }

    fn populate(&mut self) -> Result<(), VmError> {
        let memory = self.vm.memory();
        memory.populate(0..memory.page_count()).map_err(VmError::new("back guest memory"))
    }

    fn discard(&mut self) -> Result<(), VmError> {
        let memory = self.vm.memory();
        memory.discard(0..memory.page_count()).map_err(VmError::new("empty guest memory"))
    }

    fn watch_missing(&mut self) -> Result<Arc<dyn MissingPages>, VmError> {
        let memory = self.vm.memory();
        let watched = vmm::MissingPages::open(memory).map_err(VmError::new("watch missing pages"))?;
        let area = LandingArea::new(memory).map_err(VmError::new("map a landing area"))?;
        area.populate().map_err(VmError::new("back the landing area"))?;
        Ok(Arc::new(KvmMissing { watched, area: Area { area, page_count: memory.page_count() } }))
    }

    fn load_state(&mut self, state: &[u8]) -> Result<(), VmError> {
        self.vm.restore(state).map_err(VmError::new("load the machine's state"))
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        network(&self.vm)
    }

    fn start(&mut self) -> Result<(), VmError> {
        take_disks(&mut self.vm)?;
        self.vm.start();
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
    (!ports.is_empty()).then(|| Arc::new(KvmNetwork(ports)) as Arc<dyn Network>)
}

/// The machine's network cards, by their numbers.
struct KvmNetwork(Vec<NetPort>);

/// A bridge learns from the first frame, a chain of switches from as many; what was under way then has come after this.
const LEARNING_TIME: Duration = Duration::from_millis(50);

/// A kernel puts off by a second at most what it does about cables.
const CARRIER_PATIENCE: Duration = Duration::from_millis(1500);

impl Network for KvmNetwork {
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        for (number, port) in self.0.iter().enumerate() {
            let taken = port.take_frame(frame).map_err(VmError::new("take a frame from the tap"))?;
            if let Some(len) = taken {
                return Ok(Some((number as u16, len)));
            }
        }
        Ok(None)
    }

    fn wait(&self, at_most: Duration) {
        let mut fds: Vec<_> = self.0.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: at_most.as_nanos().min(999_999_999) as i64 };
        // Whatever it says, whoever waits looks for frames next.
        poll(&mut fds, Some(&timeout)).ok();
    }

    fn inject(&self, port: u16, frame: &[u8]) -> Result<(), VmError> {
        let inject = "hand a frame to the guest";
        let card = self.0.get(usize::from(port)).ok_or_else(|| {
            let source = format!("it has no network card {port}");
            VmError { operation: inject, source: source.into() }
        })?;
        // A guest that takes no frames loses them as it would from a wire.
        card.inject(frame).or_else(|error| match error {
            InjectError::Full => Ok(()),
            error @ InjectError::Length { .. } => Err(VmError::new(inject)(error)),
        })
    }

    fn announce(&self) -> Result<(), VmError> {
        self.0.iter().try_for_each(NetPort::announce).map_err(VmError::new("announce the guest's address"))
    }

    fn learning_time(&self) -> Duration {
        LEARNING_TIME
    }
}

struct KvmPages(Arc<GuestMemory>);

impl GuestPages for KvmPages {
    fn page_count(&self) -> u64 {
        self.0.page_count()
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        let page_count = self.page_count();
        assert!(run.checked_end().is_some_and(|end| end <= page_count), "{run:?} of {page_count} pages");
        // SAFETY: within guest memory, which is one mapping that lives as long as self.
        unsafe { RunBytes::new(self.0.as_ptr().add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        let mut resident = PageSet::empty(self.page_count());
        match self.0.resident(resident.words_mut()) {
            Ok(()) => resident.complement(),
            // Then every page is read.
            Err(error) => {
                tracing::debug!(error = crate::report::in_words(&error), "absent pages are not known");
                PageSet::empty(self.page_count())
            }
        }
    }
}

struct KvmMissing {
    watched: vmm::MissingPages,
    area: Area,
}

struct Area {
    area: LandingArea,
    page_count: u64,
}

impl GuestPages for Area {
    fn page_count(&self) -> u64 {
        self.page_count
    }

    fn bytes(&self, run: PageRun) -> RunBytes<'_> {
        assert!(
            run.checked_end().is_some_and(|end| end <= self.page_count),
            "{run:?} of {}",
            self.page_count
        );
        // SAFETY: within the area, which is one mapping that lives as long as self.
        unsafe { RunBytes::new(self.area.as_ptr().add(run.byte_offset()), run.byte_len()) }
    }

    fn absent(&self) -> PageSet {
        PageSet::empty(self.page_count)
    }
}

impl MissingPages for KvmMissing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }

    fn next_faults(&self, faults: &mut Vec<PageNumber>) -> Result<(), VmError> {
        let mut read = Vec::new();
        self.watched.read_faults(&mut read).map_err(VmError::new("read page faults"))?;
        faults.extend(read.iter().map(|fault| fault.page));
        Ok(())
    }

    fn install(&self, first: PageNumber, bytes: &[u8]) -> Result<u64, VmError> {
        self.watched.install(first, bytes).map_err(VmError::new("install pages"))
    }

    fn install_zeros(&self, run: PageRun) -> Result<u64, VmError> {
        self.watched.install_zeros(run.first, run.count).map_err(VmError::new("install zero pages"))
    }

    fn landing_area(&self) -> Option<&dyn GuestPages> {
        Some(&self.area)
    }

    fn install_landed(&self, run: PageRun) -> Result<u64, VmError> {
        self.watched
            .install_landed(run.first..run.end(), &self.area.area)
            .map_err(VmError::new("install received pages"))
    }

    fn unwatch(&self) -> Result<(), VmError> {
        self.watched.clone().close().map_err(VmError::new("stop watching missing pages"))
    }
}

/// Makes KVM machines.
#[derive(Clone, Debug, Default)]
pub struct KvmHost {
    /// What holds the memory of the machines it makes.
    pub backing: Backing,
    /// Names of taps, one for each network card of a machine, in their order.
    pub taps: Vec<String>,
    /// Its disks, in their order.
    pub disks: Vec<PathBuf>,
}

impl KvmHost {
    /// What these devices need of this host.
    fn backends(&self, devices: &[DeviceConfig]) -> Result<Vec<Backend>, VmError> {
        let cards = devices.iter().filter(|device| matches!(device, DeviceConfig::Net { .. })).count();
        if cards != self.taps.len() {
            return Err(VmError::new("connect its network")(format!(
                "it has {cards} network cards and {} taps were given here: start `ferry receive` with --net tap=NAME \
                 for each card",
                self.taps.len()
            )));
        }
        let blocks = devices.iter().filter(|device| matches!(device, DeviceConfig::Block { .. })).count();
        if blocks != self.disks.len() {
            return Err(VmError::new("connect its disks")(format!(
                "it has {blocks} disks and {} were given here: start `ferry receive` with --disk path=FILE for each",
                self.disks.len()
            )));
        }
        let (mut taps, mut disks) = (self.taps.iter(), self.disks.iter());
        let backend = |device: &DeviceConfig| match device {
            DeviceConfig::Net { .. } => {
                let name = taps.next().expect("as many taps as cards");
                let tap = Tap::open(name).map_err(VmError::new("connect its network"))?;
                // Until then the network would lose what it sends to the guest's new place.
                if !tap
                    .wait_until_forwarding(CARRIER_PATIENCE)
                    .map_err(VmError::new("ask for a tap's state"))?
                {
                    tracing::warn!(tap = name, "the tap is not up: the guest will not be reached by it");
                }
                Ok(Backend::Net(tap))
            }
            DeviceConfig::Rng => Ok(Backend::Rng),
            DeviceConfig::Console => Ok(Backend::Console),
            DeviceConfig::Balloon => Ok(Backend::Balloon),
            DeviceConfig::Block { read_only, .. } => {
                let path = disks.next().expect("as many disks as the machine has");
                Disk::new(path, *read_only).map(Backend::Disk).map_err(VmError::new("connect its disks"))
            }
        };
        devices.iter().map(backend).collect()
    }
}

impl DestinationHost for KvmHost {
    type Vm = KvmVm;

    fn create(&mut self, vm: &VmDescription) -> Result<KvmVm, VmError> {
        let refuse = VmError::new("make a machine for it");
        if vm.kind != KIND {
            return Err(refuse(format!(
                "this host makes machines of kind {KIND:?} and the VM is of kind {:?}",
                vm.kind
            )));
        }
        let machine: Machine =
            postcard::from_bytes(&vm.machine).map_err(VmError::new("read the machine's description"))?;
        machine.cpu.check_runs_here().map_err(VmError::new("give the guest the CPU it had"))?;
        let memory_bytes = vm.page_count.saturating_mul(PAGE_SIZE as u64);
        let backends = self.backends(&machine.devices)?;
        let config =
            VmConfig { memory_bytes, vcpus: vm.vcpus, backing: self.backing, devices: machine.devices };
        KvmVm::new(&vm.name, &config, &machine.cpu, backends)
    }

    fn check_missing_pages(&self, _: &VmDescription) -> Result<(), VmError> {
        vmm::MissingPages::probe().map_err(VmError::new("run a VM with pages missing"))
    }
}
