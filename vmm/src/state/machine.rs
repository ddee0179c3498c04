//! What is in a machine's state.

use kvm_bindings::{kvm_clock_data, kvm_irqchip, kvm_pit_state2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::section::{Name, Section, Writer, sections};
use crate::config::{DeviceConfig, MAX_VCPUS};
use crate::devices::serial::SerialState;
use crate::devices::virtio::MAX_DEVICES;
use crate::devices::virtio::state::{DeviceState, FunctionState, MAX_QUEUES, TransportState};
use crate::vcpu::state::{MAX_MSRS, MAX_XSAVE_BYTES, VcpuState};

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

/// What has been read so far.
#[derive(Default)]
struct Partial {
    shape: Option<MachineShape>,
    clock: Option<ClockState>,
    chips: [Option<ChipState>; CHIPS],
    pit: Option<PitState>,
    serial: Option<SerialState>,
    devices: [Option<DeviceState>; MAX_DEVICES],
    vcpus: [Option<VcpuState>; MAX_VCPUS as usize],
}

impl MachineState {
    /// Decodes and checks a state. Pure: touches no machine.
    pub(crate) fn decode(state: &[u8]) -> Result<MachineState, DecodeError> {
        let mut partial = Partial::default();
        for section in sections(state)? {
            partial.take(&section?)?;
        }
        partial.complete()
    }
}

impl Partial {
    fn take(&mut self, section: &Section<'_>) -> Result<(), DecodeError> {
        let Some((kind, name, known)) = KINDS.into_iter().find(|(_, name, _)| *name == section.name) else {
            return Err(DecodeError::UnknownSection { name: section.name.text() });
        };
        if section.version != known {
            return Err(DecodeError::SectionVersion { name: name.text(), version: section.version, known });
        }
        let instance = usize::from(section.instance);
        let alone = (instance == 0).then_some(());
        match kind {
            Kind::Machine => fill(alone.map(|()| &mut self.shape), section),
            Kind::Clock => fill(alone.map(|()| &mut self.clock), section),
            Kind::Chip => fill(self.chips.get_mut(instance), section),
            Kind::Pit => fill(alone.map(|()| &mut self.pit), section),
            Kind::Serial => {
                fill(alone.map(|()| &mut self.serial), section)?;
                self.serial.as_ref().map_or(Ok(()), |serial| serial.check().map_err(Into::into))
            }
            Kind::Vcpu => {
                fill(self.vcpus.get_mut(instance), section)?;
                let vcpu = self.vcpus[instance].as_ref();
                vcpu.map_or(Ok(()), |vcpu| check_vcpu(section.instance, vcpu))
            }
            Kind::Net => self.take_device(section, FunctionState::Net),
            Kind::Rng => self.take_device(section, |()| FunctionState::Rng),
            Kind::Block => self.take_device(section, |()| FunctionState::Block),
            Kind::Console => self.take_device(section, FunctionState::Console),
            Kind::Balloon => self.take_device(section, FunctionState::Balloon),
        }
    }

    /// A device's section: its transport, and what its kind adds.
    fn take_device<T: DeserializeOwned>(
        &mut self,
        section: &Section<'_>,
        function: impl FnOnce(T) -> FunctionState,
    ) -> Result<(), DecodeError> {
        let mut decoded: Option<(TransportState, T)> = None;
        let place = self.devices.get_mut(usize::from(section.instance));
        let free = place.filter(|place| place.is_none());
        fill(free.is_some().then_some(&mut decoded), section)?;
        let (Some(free), Some((transport, added))) = (free, decoded) else { return Ok(()) };
        let queues = transport.queues.len();
        if queues > MAX_QUEUES {
            return Err(DecodeError::Queues { device: section.instance, queues });
        }
        *free = Some(DeviceState { transport, function: function(added) });
        Ok(())
    }

    fn complete(self) -> Result<MachineState, DecodeError> {
        let shape = self.shape.ok_or_else(|| missing(Kind::Machine, 0))?;
        if shape.vcpus == 0 || shape.vcpus > MAX_VCPUS {
            return Err(DecodeError::Vcpus { vcpus: shape.vcpus });
        }
        if shape.devices.len() > MAX_DEVICES {
            return Err(DecodeError::Devices { devices: shape.devices.len() });
        }
        let devices = complete_devices(&shape.devices, self.devices)?;
        let [first, second, third] = self.chips;
        let chip = |chip: Option<ChipState>, instance| chip.ok_or_else(|| missing(Kind::Chip, instance));
        let chips = [chip(first, 0)?, chip(second, 1)?, chip(third, 2)?];
        let mut vcpus = Vec::with_capacity(usize::from(shape.vcpus));
        for (instance, vcpu) in self.vcpus.into_iter().enumerate() {
            match (vcpu, instance < usize::from(shape.vcpus)) {
                (Some(vcpu), true) => vcpus.push(vcpu),
                (None, false) => {}
                (None, true) => return Err(missing(Kind::Vcpu, instance as u16)),
                (Some(_), false) => return Err(unexpected(Kind::Vcpu, instance as u16)),
            }
        }
        Ok(MachineState {
            shape,
            clock: self.clock.ok_or_else(|| missing(Kind::Clock, 0))?,
            chips,
            pit: self.pit.ok_or_else(|| missing(Kind::Pit, 0))?,
            serial: self.serial.ok_or_else(|| missing(Kind::Serial, 0))?,
            devices,
            vcpus,
        })
    }
}

/// Exactly one state of the right kind for each device.
fn complete_devices(
    configs: &[DeviceConfig],
    states: [Option<DeviceState>; MAX_DEVICES],
) -> Result<Vec<DeviceState>, DecodeError> {
    let mut devices = Vec::with_capacity(configs.len());
    for (instance, state) in states.into_iter().enumerate() {
        match (configs.get(instance).map(kind_of_config), state) {
            (Some(wanted), Some(state)) if kind_of_state(&state) == wanted => devices.push(state),
            (Some(wanted), _) => return Err(missing(wanted, instance as u16)),
            (None, Some(state)) => return Err(unexpected(kind_of_state(&state), instance as u16)),
            (None, None) => {}
        }
    }
    Ok(devices)
}

fn kind_of_config(config: &DeviceConfig) -> Kind {
    match config {
        DeviceConfig::Net { .. } => Kind::Net,
        DeviceConfig::Rng => Kind::Rng,
        DeviceConfig::Block { .. } => Kind::Block,
        DeviceConfig::Console => Kind::Console,
        DeviceConfig::Balloon => Kind::Balloon,
    }
}

fn kind_of_state(state: &DeviceState) -> Kind {
    match state.function {
        FunctionState::Net(_) => Kind::Net,
        FunctionState::Rng => Kind::Rng,
        FunctionState::Block => Kind::Block,
        FunctionState::Console(_) => Kind::Console,
        FunctionState::Balloon(_) => Kind::Balloon,
    }
}

/// Decodes a section into its place, which must exist and be empty.
fn fill<T: DeserializeOwned>(
    place: Option<&mut Option<T>>,
    section: &Section<'_>,
) -> Result<(), DecodeError> {
    let (name, instance) = (section.name.text(), section.instance);
    let Some(place @ None) = place else {
        return Err(DecodeError::UnexpectedSection { name, instance });
    };
    match postcard::take_from_bytes(section.payload) {
        Ok((value, [])) => {
            *place = Some(value);
            Ok(())
        }
        Ok((_, rest)) => Err(DecodeError::PayloadTooLong { name, instance, bytes: rest.len() }),
        Err(source) => Err(DecodeError::Payload { name, instance, source }),
    }
}

fn check_vcpu(vcpu: u16, state: &VcpuState) -> Result<(), DecodeError> {
    let limits =
        [("MSRs", state.msrs.len(), MAX_MSRS), ("extended registers", state.xsave.0.len(), MAX_XSAVE_BYTES)];
    match limits.into_iter().find(|(_, count, limit)| count > limit) {
        None => Ok(()),
        Some((what, count, limit)) => Err(DecodeError::VcpuLimit { vcpu, what, count, limit }),
    }
}

fn missing(kind: Kind, instance: u16) -> DecodeError {
    DecodeError::MissingSection { name: KINDS[kind as usize].1.text(), instance }
}

fn unexpected(kind: Kind, instance: u16) -> DecodeError {
    DecodeError::UnexpectedSection { name: KINDS[kind as usize].1.text(), instance }
}
