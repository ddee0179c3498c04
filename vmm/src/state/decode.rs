//! From bytes to a whole state, or to what is wrong with them.

use serde::de::DeserializeOwned;

use super::error::DecodeError;
use super::machine::{CHIPS, ChipState, ClockState, KINDS, Kind, MachineShape, MachineState, PitState};
use super::section::{Section, sections};
use crate::config::{DeviceConfig, MAX_VCPUS};
use crate::devices::serial::SerialState;
use crate::devices::virtio::MAX_DEVICES;
use crate::devices::virtio::state::{DeviceState, FunctionState, MAX_QUEUES, TransportState};
use crate::vcpu::state::{MAX_MSRS, MAX_XSAVE_BYTES, VcpuState};

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
