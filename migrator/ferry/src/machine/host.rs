//! Makes whichever kind of machine a VM that wants to come is of.

use super::{Handles, Machine};
#[cfg(feature = "kvm")]
use crate::kvm_vm::{self, KvmHost};
use engine::{
    sim::{self, SimHost},
    vm::{DestinationHost, VmDescription, VmError},
};

/// What holds guest memory on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Backing {
    /// Private anonymous memory, with transparent huge pages where the host gives them.
    #[default]
    Anonymous,
    /// A memfd: memory that another process could map.
    Memfd,
    /// Reserved huge pages of 2 MiB; post-copy cannot arrive on them.
    Hugetlbfs,
}

#[cfg(feature = "kvm")]
impl From<Backing> for vmm::Backing {
    fn from(backing: Backing) -> vmm::Backing {
        match backing {
            Backing::Anonymous => vmm::Backing::Anonymous,
            Backing::Memfd => vmm::Backing::Memfd,
            Backing::Hugetlbfs => vmm::Backing::Hugetlbfs,
        }
    }
}

/// What this host gives to a VM that comes.
#[derive(Clone, Debug, Default)]
pub struct HostShare {
    /// What holds its memory.
    pub backing: Backing,
    /// Simulated VMs are taken, too, which run as their source wants it and use no machine of this host's.
    pub simulated: bool,
    /// Names of taps, one for each of its network cards.
    pub taps: Vec<String>,
    /// Its disks: files or block devices that both hosts see.
    pub disks: Vec<std::path::PathBuf>,
}

/// Makes machines of both kinds, and shows each to `made` before anything is in it.
pub struct Host<F> {
    #[cfg_attr(not(feature = "kvm"), allow(dead_code))]
    share: HostShare,
    made: F,
}

impl<F: FnMut(&VmDescription, Handles)> Host<F> {
    /// `made` gets the handles of each machine, so that its console is heard from the first instruction on.
    pub fn new(share: HostShare, made: F) -> Host<F> {
        Host { share, made }
    }

    #[cfg(feature = "kvm")]
    fn kvm_host(&self) -> KvmHost {
        KvmHost {
            backing: self.share.backing.into(),
            taps: self.share.taps.clone(),
            disks: self.share.disks.clone(),
        }
    }

    fn create_kind(&self, vm: &VmDescription) -> Result<Machine, VmError> {
        if vm.kind == sim::KIND && !self.share.simulated {
            return Err(VmError {
                operation: "make a machine for it",
                source: "it is a simulated VM: `ferry receive --simulated` takes those, too".into(),
            });
        }
        if vm.kind == sim::KIND {
            return SimHost::default().create(vm).map(|sim| Machine::Simulated(Box::new(sim)));
        }
        #[cfg(feature = "kvm")]
        if vm.kind == kvm_vm::KIND {
            return self.kvm_host().create(vm).map(|kvm| Machine::Kvm(Box::new(kvm)));
        }
        Err(VmError {
            operation: "make a machine for it",
            source: format!("this ferry makes no machines of kind {:?}", vm.kind).into(),
        })
    }
}

impl<F: FnMut(&VmDescription, Handles)> DestinationHost for Host<F> {
    type Vm = Machine;

    fn create(&mut self, vm: &VmDescription) -> Result<Machine, VmError> {
        let machine = self.create_kind(vm)?;
        (self.made)(vm, machine.handles());
        Ok(machine)
    }

    fn check_missing_pages(&self, vm: &VmDescription) -> Result<(), VmError> {
        // A simulated machine waits for its pages without the kernel's help.
        #[cfg(feature = "kvm")]
        if vm.kind == kvm_vm::KIND {
            return self.kvm_host().check_missing_pages(vm);
        }
        SimHost::default().check_missing_pages(vm)
    }
}
