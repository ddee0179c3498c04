//! What is in a machine's state, and how it is written.

use kvm_bindings::{kvm_clock_data, kvm_irqchip, kvm_pit_state2};
use serde::{Deserialize, Serialize};

use super::section::{Name, Writer};
use crate::config::DeviceConfig;
use crate::devices::serial::SerialState;
use crate::devices::virtio::state::{DeviceState, FunctionState};
use crate::vcpu::state::VcpuState;

/// The in-kernel interrupt chips: two 8259s and an I/O APIC.
pub(crate) const CHIPS: usize = 3;

/// The sections, in the order in which they are written. A section whose payload changes gets a new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Machine,
    Clock,
    Chip,
    Pit,
    Serial,
    Vcpu,
    Net,
    Rng,
    Block,
    Console,
    Balloon,
}

pub(super) const KINDS: [(Kind, Name, u16); 11] = [
    (Kind::Machine, Name(*b"machine\0"), 2),
    (Kind::Clock, Name(*b"clock\0\0\0"), 1),
    (Kind::Chip, Name(*b"irqchip\0"), 1),
    (Kind::Pit, Name(*b"pit\0\0\0\0\0"), 1),
    (Kind::Serial, Name(*b"serial\0\0"), 1),
    (Kind::Vcpu, Name(*b"vcpu\0\0\0\0"), 2),
    (Kind::Net, Name(*b"net\0\0\0\0\0"), 1),
    (Kind::Rng, Name(*b"rng\0\0\0\0\0"), 1),
    (Kind::Block, Name(*b"block\0\0\0"), 1),
    (Kind::Console, Name(*b"console\0"), 1),
    (Kind::Balloon, Name(*b"balloon\0"), 1),
];

/// Which machine a state is of; another cannot take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineShape {
    pub(crate) memory_bytes: u64,
    pub(crate) vcpus: u8,
    /// CRC-32 over the CPU model: the CPU was set when the machine was made.
    pub(crate) cpu_crc: u32,
    pub(crate) devices: Vec<DeviceConfig>,
}

/// KVM's clock and the wall clock, read together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct ClockState {
    pub(crate) clock: kvm_clock_data,
    /// Wall time at the reading, in nanoseconds since 1970.
    pub(crate) wall_ns: u64,
}

pub(crate) type ChipState = kvm_irqchip;
pub(crate) type PitState = kvm_pit_state2;

/// A whole state, decoded and checked, not yet applied.
#[derive(Debug)]
pub(crate) struct MachineState {
    pub(crate) shape: MachineShape,
    pub(crate) clock: ClockState,
    pub(crate) chips: [ChipState; CHIPS],
    pub(crate) pit: PitState,
    pub(crate) serial: SerialState,
    /// One for each of the shape's devices.
    pub(crate) devices: Vec<DeviceState>,
    pub(crate) vcpus: Vec<VcpuState>,
}

/// Writes a state section by section.
pub(crate) struct Encoder {
    writer: Writer,
}

impl Encoder {
    /// Uses the room of `bytes`.
    pub(crate) fn new(bytes: Vec<u8>) -> Encoder {
        Encoder { writer: Writer::new(bytes) }
    }

    pub(crate) fn shape(&mut self, shape: &MachineShape) -> Result<(), postcard::Error> {
        self.put(Kind::Machine, 0, shape)
    }

    pub(crate) fn clock(&mut self, clock: &ClockState) -> Result<(), postcard::Error> {
        self.put(Kind::Clock, 0, clock)
    }

    pub(crate) fn chip(&mut self, instance: u16, chip: &ChipState) -> Result<(), postcard::Error> {
        self.put(Kind::Chip, instance, chip)
    }

    pub(crate) fn pit(&mut self, pit: &PitState) -> Result<(), postcard::Error> {
        self.put(Kind::Pit, 0, pit)
    }

    pub(crate) fn serial(&mut self, serial: &SerialState) -> Result<(), postcard::Error> {
        self.put(Kind::Serial, 0, serial)
    }

    pub(crate) fn device(&mut self, instance: u16, device: &DeviceState) -> Result<(), postcard::Error> {
        let transport = &device.transport;
        match &device.function {
            FunctionState::Net(net) => self.put(Kind::Net, instance, &(transport, net)),
            FunctionState::Rng => self.put(Kind::Rng, instance, &(transport, ())),
            FunctionState::Block => self.put(Kind::Block, instance, &(transport, ())),
            FunctionState::Console(console) => self.put(Kind::Console, instance, &(transport, console)),
            FunctionState::Balloon(balloon) => self.put(Kind::Balloon, instance, &(transport, balloon)),
        }
    }

    pub(crate) fn vcpu(&mut self, instance: u16, vcpu: &VcpuState) -> Result<(), postcard::Error> {
        self.put(Kind::Vcpu, instance, vcpu)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.writer.finish()
    }

    fn put<T: Serialize>(&mut self, kind: Kind, instance: u16, value: &T) -> Result<(), postcard::Error> {
        let (_, name, version) = KINDS[kind as usize];
        self.writer.section(name, version, instance, |bytes| postcard::to_extend(value, bytes))
    }
}
