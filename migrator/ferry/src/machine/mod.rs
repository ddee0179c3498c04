//! Either kind of machine behind the engine's seam, and the handles a process keeps on one while the engine has it.

mod balloon;
mod clock;
#[cfg(feature = "kvm")]
mod console;
mod footprint;
mod handles;
mod host;
#[cfg(feature = "kvm")]
mod pulse;
mod telemetry;

use std::sync::Arc;

pub use balloon::BalloonReport;
pub use clock::tsc_now;
#[cfg(feature = "kvm")]
pub use console::GuestConsole;
pub use footprint::Footprint;
pub use handles::{Ending, Handles};
pub use host::{Backing, Host, HostShare};
#[cfg(feature = "kvm")]
pub use pulse::pulse_command_line;
pub use telemetry::{CheckReport, GapReport, GuestReport, UnavailableGuest};

#[cfg(feature = "kvm")]
use crate::kvm_vm::KvmVm;
use engine::{
    pages::{GuestPages, PageNumber, PageSet},
    sim::SimVm,
    vm::{ConsoleHistory, DestinationVm, MissingPages, Network, SourceVm, VmDescription, VmError},
};

/// A machine of either kind.
pub enum Machine {
    /// Ferry's own, on KVM.
    #[cfg(feature = "kvm")]
    Kvm(Box<KvmVm>),
    /// One without hardware.
    Simulated(Box<SimVm>),
}

/// Does the same to whichever machine it is.
macro_rules! whichever {
    ($machine:expr, $vm:ident => $do:expr) => {
        match $machine {
            #[cfg(feature = "kvm")]
            Machine::Kvm($vm) => $do,
            Machine::Simulated($vm) => $do,
        }
    };
}

impl SourceVm for Machine {
    fn describe(&self) -> VmDescription {
        whichever!(self, vm => vm.describe())
    }

    fn pages(&self) -> Arc<dyn GuestPages> {
        whichever!(self, vm => SourceVm::pages(&**vm))
    }

    fn start_dirty_log(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.start_dirty_log())
    }

    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError> {
        whichever!(self, vm => vm.take_dirty(dirty))
    }

    fn stop_dirty_log(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.stop_dirty_log())
    }

    fn pause(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.pause())
    }

    fn resume(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.resume())
    }

    fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        whichever!(self, vm => vm.save_state())
    }

    fn before_pause(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.before_pause())
    }

    fn release(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.release())
    }

    fn first_pages(&self) -> Vec<PageNumber> {
        whichever!(self, vm => vm.first_pages())
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        whichever!(self, vm => SourceVm::network(&**vm))
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        whichever!(self, vm => SourceVm::console(&**vm))
    }
}

impl DestinationVm for Machine {
    fn pages(&self) -> Arc<dyn GuestPages> {
        whichever!(self, vm => DestinationVm::pages(&**vm))
    }

    fn populate(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        whichever!(self, vm => vm.populate(is_wanted))
    }

    fn populate_landing(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError> {
        whichever!(self, vm => vm.populate_landing(is_wanted))
    }

    fn discard(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.discard())
    }

    fn prepare_missing(&mut self) -> Result<Arc<dyn MissingPages>, VmError> {
        whichever!(self, vm => vm.prepare_missing())
    }

    fn load_state(&mut self, state: &[u8]) -> Result<(), VmError> {
        whichever!(self, vm => vm.load_state(state))
    }

    fn network(&self) -> Option<Arc<dyn Network>> {
        whichever!(self, vm => DestinationVm::network(&**vm))
    }

    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        whichever!(self, vm => DestinationVm::console(&**vm))
    }

    fn claim(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.claim())
    }

    fn start(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.start())
    }

    fn hold(&mut self) -> Result<(), VmError> {
        whichever!(self, vm => vm.hold())
    }
}
