//! Saving a machine's state.

use std::time::{SystemTime, UNIX_EPOCH};

use kvm_bindings::kvm_irqchip;
use thiserror::Error;

use super::{Phase, Vm};
use crate::kvm::CallError;
use crate::state::{ClockState, Encoder};
use crate::vcpu::first_pages;
use crate::vcpu::state::VcpuState;

/// The state could not be saved. The machine is as it was.
#[derive(Debug, Error)]
pub enum SaveError {
    /// It runs, or has no guest.
    #[error("save the state: the machine is not paused")]
    NotPaused,
    /// A call on the VM failed.
    #[error("save the machine's state")]
    Call(#[from] CallError),
    /// A vCPU could not be read.
    #[error("save the state of vCPU {vcpu}")]
    Vcpu {
        /// Which.
        vcpu: usize,
        /// Why.
        source: CallError,
    },
    /// The state could not be written down.
    #[error("encode the machine's state")]
    Encode(#[from] postcard::Error),
}

impl Vm {
    /// Saves all of the machine's state but its memory. The machine must be paused, or ready and never started. May dirty
    /// memory: harvest after it.
    pub fn save(&mut self) -> Result<Vec<u8>, SaveError> {
        match self.phase {
            Phase::New | Phase::Running => return Err(SaveError::NotPaused),
            Phase::Ready | Phase::Paused => {}
        }
        let mut encoder = Encoder::new(Vec::with_capacity(self.state_bytes));
        encoder.shape(&self.shape)?;
        // Along an interrupt's way, source first: devices and timer, then interrupt chips, then the vCPUs' local
        // APICs. The in-kernel timer does not stop with the vCPUs; an interrupt it raises meanwhile is then found further
        // down, and at worst twice. The other way round it would be found nowhere.
        encoder.serial(&self.serial.save())?;
        self.devices.save(|index, device| encoder.device(index, device))?;
        encoder.pit(&self.vm.get_pit2().map_err(CallError::of("KVM_GET_PIT2"))?)?;
        for chip_id in 0..3 {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.vm.get_irqchip(&mut chip).map_err(CallError::of("KVM_GET_IRQCHIP"))?;
            encoder.chip(chip_id as u16, &chip)?;
        }
        self.first_pages.clear();
        let (memory, first_pages) = (&self.memory, &mut self.first_pages);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let save = |state: &VcpuState| {
                first_pages::add(memory, state, first_pages);
                encoder.vcpu(index as u16, state)
            };
            vcpu.save(save).map_err(|source| SaveError::Vcpu { vcpu: index, source })??;
        }
        // The clock last: the wall time read with it is the end of the guest's time here, and it must not lie before the
        // reading of any vCPU's TSC, or the gap would count twice.
        let (memory, first_pages) = (&self.memory, &mut self.first_pages);
        self.devices.rings(|ring| first_pages::add_address(memory, ring, first_pages));
        let clock = self.vm.get_clock().map_err(CallError::of("KVM_GET_CLOCK"))?;
        encoder.clock(&ClockState { clock, wall_ns: wall_ns() })?;
        let state = encoder.finish();
        self.state_bytes = state.len();
        Ok(state)
    }
}

impl Vm {
    /// The pages (dense numbers) that the vCPUs will touch first when they run on, as far as their registers and page
    /// tables tell, and those of the devices' rings; as of the last [`save`](Self::save). A hint for whoever brings pages one after another.
    pub fn first_pages(&self) -> &[u64] {
        &self.first_pages
    }
}

/// Wall time in nanoseconds since 1970; 0 for a host that believes to live before.
pub(super) fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
