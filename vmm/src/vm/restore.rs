//! Taking over a saved state.

use std::time::Duration;

use kvm_bindings::{KVM_CLOCK_REALTIME, kvm_clock_data};
use thiserror::Error;

use super::save::wall_ns;
use super::{Phase, Vm};
use crate::config::DeviceConfig;
use crate::devices::serial::SerialStateError;
use crate::devices::virtio::state::DeviceStateError;
use crate::kvm::CallError;
use crate::state::{DecodeError, MachineShape, MachineState};
use crate::vcpu::state::VcpuRestoreError;
use crate::vcpu::tsc::Gap;

/// A state was not taken over.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The machine has run.
    #[error("restore a state: the machine has been started already")]
    Started,
    /// Not a state. Nothing was changed.
    #[error("decode the machine's state")]
    Decode(#[from] DecodeError),
    /// The state of another machine. Nothing was changed.
    #[error(
        "the state is of a machine with {} bytes of memory, {} vCPUs, {} CPU and {}; this one has {}, {} and {}",
        theirs.memory_bytes,
        theirs.vcpus,
        if theirs.cpu_crc == ours.cpu_crc { "the same" } else { "another" },
        in_words(&theirs.devices),
        ours.memory_bytes,
        ours.vcpus,
        in_words(&ours.devices)
    )]
    OtherMachine {
        /// The state's machine.
        theirs: Box<Shape>,
        /// This one.
        ours: Box<Shape>,
    },
    /// The interrupt chips are numbered wrongly. Nothing was changed.
    #[error("the state of interrupt chip {place} says that it is chip {says}")]
    ChipNumber {
        /// Its place.
        place: usize,
        /// The number in it.
        says: u32,
    },
    /// A call on the VM failed. The machine is of no more use than to try again or to be dropped.
    #[error("restore the machine's state")]
    Call(#[from] CallError),
    /// A vCPU could not take its state; as for `Call`.
    #[error("restore the state of vCPU {vcpu}")]
    Vcpu {
        /// Which.
        vcpu: usize,
        /// Why.
        source: VcpuRestoreError,
    },
    /// The serial port could not take its state; as for `Call`.
    #[error("restore the state of the serial port")]
    Serial(#[from] SerialStateError),
    /// A virtio device cannot have that state. Nothing was changed.
    #[error(transparent)]
    Device(#[from] DeviceStateError),
}

/// What must be the same of two machines that take each other's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// CRC-32 of its CPU model.
    pub cpu_crc: u32,
    /// Its virtio devices.
    pub devices: Vec<DeviceConfig>,
}

fn in_words(devices: &[DeviceConfig]) -> String {
    match devices {
        [] => "no devices".to_owned(),
        some => format!("devices {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

impl From<MachineShape> for Box<Shape> {
    fn from(MachineShape { memory_bytes, vcpus, cpu_crc, devices }: MachineShape) -> Self {
        Box::new(Shape { memory_bytes, vcpus, cpu_crc, devices })
    }
}

impl Vm {
    /// Takes over a state that a machine of the same shape saved. All of it is decoded and checked before any of it is
    /// applied. The machine is ready afterwards; until it is started the call may be repeated, with this state or a newer
    /// one: a first time as a rehearsal makes the second faster. The guest's clocks go on by the wall time since the
    /// state was saved, or stand where they were if this host's wall clock is behind. May touch guest memory.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        match self.phase {
            Phase::Running | Phase::Paused => return Err(RestoreError::Started),
            Phase::New | Phase::Ready => {}
        }
        let state = MachineState::decode(state)?;
        self.check(&state)?;
        // Never negative: a guest's clock must not go back because two hosts' clocks differ.
        let gap = Gap::of(Duration::from_nanos(wall_ns().saturating_sub(state.clock.wall_ns)));
        let mut tsc_reference = None;
        // Serial port before interrupt chips: it may raise the interrupt it has pending, which they have recorded, too, if
        // it was delivered; their state, coming after, has the last word.
        self.serial.restore(&state.serial)?;
        self.devices.restore(&state.devices);
        // Clock before vCPUs: their clock MSRs make KVM write guest time, which must be the new one.
        let clock = advanced(&state.clock.clock, gap.now(), self.clock_knows_wall_time);
        self.vm.set_clock(&clock).map_err(CallError::of("KVM_SET_CLOCK"))?;
        let here = self.vm.get_clock().map_err(CallError::of("KVM_GET_CLOCK"))?;
        let gap = gap.with_clocks(&state.clock.clock, &here);
        // Interrupt chips before timer, timer before vCPUs: what a chip forwards while it is set is overwritten by the
        // local APICs' own state, which was read last.
        for chip in &state.chips {
            self.vm.set_irqchip(chip).map_err(CallError::of("KVM_SET_IRQCHIP"))?;
        }
        self.vm.set_pit2(&state.pit).map_err(CallError::of("KVM_SET_PIT2"))?;
        for (index, (vcpu, state)) in self.vcpus.iter().zip(&state.vcpus).enumerate() {
            vcpu.restore(state, &gap, &mut tsc_reference)
                .map_err(|source| RestoreError::Vcpu { vcpu: index, source })?;
        }
        self.phase = Phase::Ready;
        Ok(())
    }

    fn check(&self, state: &MachineState) -> Result<(), RestoreError> {
        if state.shape != self.shape {
            return Err(RestoreError::OtherMachine {
                theirs: state.shape.clone().into(),
                ours: self.shape.clone().into(),
            });
        }
        self.devices.check(&state.devices)?;
        for (place, chip) in state.chips.iter().enumerate() {
            if chip.chip_id as usize != place {
                return Err(RestoreError::ChipNumber { place, says: chip.chip_id });
            }
        }
        for (index, (vcpu, state)) in self.vcpus.iter().zip(&state.vcpus).enumerate() {
            vcpu.check(state, self.tsc_can_scale)
                .map_err(|source| RestoreError::Vcpu { vcpu: index, source })?;
        }
        Ok(())
    }
}

/// The clock to set, `gap` after it was read. Where both hosts know wall time KVM works the gap out itself, to the
/// nanosecond at which it sets the clock, and it does not go backwards either.
fn advanced(saved: &kvm_clock_data, gap: Duration, knows_wall_time: bool) -> kvm_clock_data {
    if knows_wall_time && saved.flags & KVM_CLOCK_REALTIME != 0 {
        // Of the flags only this one may be given.
        kvm_clock_data {
            clock: saved.clock,
            flags: KVM_CLOCK_REALTIME,
            realtime: saved.realtime,
            ..Default::default()
        }
    } else {
        let gap_ns = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        kvm_clock_data { clock: saved.clock.saturating_add(gap_ns), ..Default::default() }
    }
}
