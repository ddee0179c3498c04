//! A host of simulated machines.

use std::time::Duration;

use super::vm::{Description, Fault, KIND, SimVm};
use crate::vm::{DestinationHost, VmDescription, VmError};

/// Makes simulated machines.
#[derive(Clone, Copy, Debug)]
pub struct SimHost {
    /// The largest guest it takes.
    pub max_pages: u64,
    /// An operation of the next machine to fail, and after how many successes.
    pub fault: Option<(Fault, u32)>,
    /// How long each bite of 64 pages takes to be backed.
    pub populate_nap: Duration,
    /// How long taking the disks takes, which only one side may hold.
    pub claim_nap: Duration,
}

impl Default for SimHost {
    fn default() -> SimHost {
        SimHost { max_pages: 1 << 24, fault: None, populate_nap: Duration::ZERO, claim_nap: Duration::ZERO }
    }
}

impl DestinationHost for SimHost {
    type Vm = SimVm;

    fn create(&mut self, vm: &VmDescription) -> Result<SimVm, VmError> {
        let refuse =
            |source: String| VmError { operation: "make a simulated machine", source: source.into() };
        if vm.kind != KIND {
            return Err(refuse(format!(
                "this host makes {KIND} machines and the VM is of kind {:?}",
                vm.kind
            )));
        }
        if vm.page_count > self.max_pages {
            return Err(refuse(format!(
                "it has {} pages and this host room for {}",
                vm.page_count, self.max_pages
            )));
        }
        postcard::from_bytes::<Description>(&vm.machine)
            .map_err(VmError::new("read the machine's description"))?;
        let mut made = SimVm::empty(&vm.name, vm.page_count)?;
        made.populate_nap = self.populate_nap;
        made.claim_nap = self.claim_nap;
        if let Some((fault, successes)) = self.fault.take() {
            made.fail_after(fault, successes);
        }
        Ok(made)
    }

    fn check_missing_pages(&self, _: &VmDescription) -> Result<(), VmError> {
        Ok(())
    }
}
