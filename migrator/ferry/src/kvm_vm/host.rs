//! A host that makes KVM machines for VMs that want to come.

use std::{path::PathBuf, time::Duration};

use vmm::{Backend, Backing, DeviceConfig, Disk, Tap, VmConfig};

use super::{KIND, KvmVm, description::Machine};
use engine::{
    pages::PAGE_SIZE,
    vm::{DestinationHost, VmDescription, VmError},
};

/// A kernel puts off by a second at most what it does about cables.
const CARRIER_PATIENCE: Duration = Duration::from_millis(1500);

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
        let machine = Machine::decode(&vm.machine).map_err(VmError::new("read the machine's description"))?;
        machine.cpu.check_runs_here().map_err(VmError::new("give the guest the CPU it had"))?;
        let memory_bytes = vm.page_count.saturating_mul(PAGE_SIZE as u64);
        let backends = self.backends(&machine.devices)?;
        let config =
            VmConfig { memory_bytes, vcpus: vm.vcpus, backing: self.backing, devices: machine.devices };
        let mut made = KvmVm::new(&vm.name, &config, &machine.cpu, backends)?;
        // It may go on from here.
        made.set_image(vm.image.clone());
        Ok(made)
    }

    fn check_missing_pages(&self, _: &VmDescription) -> Result<(), VmError> {
        let refuse = "run a VM with pages missing";
        // Known before anything moves; the kernel would say no only when the guest stands still.
        if self.backing == Backing::Hugetlbfs {
            return Err(VmError::new(refuse)(
                "reserved huge pages come whole and not page by page: start `ferry receive` with --backing anonymous, or \
                 take another strategy",
            ));
        }
        vmm::MissingPages::probe().map_err(VmError::new(refuse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_refuse_missing_pages_before_anything_moves() {
        let vm = VmDescription {
            name: "a".to_owned(),
            kind: KIND.to_owned(),
            page_count: 1 << 13,
            vcpus: 1,
            image: None,
            paused: false,
            machine: Vec::new(),
        };
        let host = KvmHost { backing: Backing::Hugetlbfs, ..KvmHost::default() };
        let error = engine::report::in_words(&host.check_missing_pages(&vm).unwrap_err());
        assert!(error.contains("huge pages") && error.contains("--backing anonymous"), "{error}");
    }
}
