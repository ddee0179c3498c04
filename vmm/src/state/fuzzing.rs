//! Bytes as a saved state, for the fuzz target and its property test.

use kvm_bindings::{kvm_clock_data, kvm_irqchip, kvm_pit_state2};
use serde::de::DeserializeOwned;

use super::machine::{CHIPS, KINDS};
use super::section::Writer;
use super::{ClockState, Encoder, MachineShape, MachineState};
use crate::config::DeviceConfig;
use crate::devices::serial::SerialState;
use crate::devices::virtio::hostile;
use crate::devices::virtio::net::MacAddress;
use crate::devices::virtio::state::{DeviceState, FunctionState, TransportState};
use crate::vcpu::state::VcpuState;

/// A state that decodes is the same when it is encoded and decoded again, and may be loaded by devices.
pub fn state(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let bytes = match how % 4 {
        0 => rest.to_vec(),
        1 => sealed(rest),
        _ => whole(rest),
    };
    load(&bytes);
}

/// Loads what decodes. Returns how many devices had a state that they took.
fn load(bytes: &[u8]) -> Option<usize> {
    let decoded = MachineState::decode(bytes).ok()?;
    let mut taken = 0;
    for device in &decoded.devices {
        taken += usize::from(hostile::load(device));
    }
    let mut again = Encoder::new(Vec::new());
    for (instance, device) in decoded.devices.iter().enumerate() {
        again.device(instance as u16, device).expect("what was decoded is encoded");
    }
    again.shape(&decoded.shape).expect("what was decoded is encoded");
    Some(taken)
}

/// A state that is whole, of a machine with such devices as the bytes say: per device its kind, two bytes of length and
/// its payload, cut off at the end. What is no payload of that kind is left out.
fn whole(mut bytes: &[u8]) -> Vec<u8> {
    let (mut configs, mut states) = (Vec::new(), Vec::new());
    while let [kind, low, high, rest @ ..] = bytes {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, behind) = rest.split_at(length);
        let (config, state) = match kind % 5 {
            0 => (
                DeviceConfig::Net { mac: MacAddress([2, 0, 0, 0, 0, 1]) },
                device(payload, FunctionState::Net),
            ),
            1 => (DeviceConfig::Rng, device(payload, |()| FunctionState::Rng)),
            2 => (
                DeviceConfig::Block { read_only: false, bytes: 64 << 10 },
                device(payload, |()| FunctionState::Block),
            ),
            3 => (DeviceConfig::Console, device(payload, FunctionState::Console)),
            _ => (DeviceConfig::Balloon, device(payload, FunctionState::Balloon)),
        };
        configs.extend(state.is_some().then_some(config));
        states.extend(state);
        bytes = behind;
    }
    encode(configs, &states).expect("a state can be encoded")
}

fn device<T: DeserializeOwned>(
    payload: &[u8],
    function: impl FnOnce(T) -> FunctionState,
) -> Option<DeviceState> {
    let (transport, added): (TransportState, T) = postcard::from_bytes(payload).ok()?;
    Some(DeviceState { transport, function: function(added) })
}

/// The state of a machine with these devices, and nothing in it otherwise.
fn encode(devices: Vec<DeviceConfig>, states: &[DeviceState]) -> Result<Vec<u8>, postcard::Error> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.shape(&MachineShape { memory_bytes: 16 << 20, vcpus: 1, cpu_crc: 0, devices })?;
    encoder.clock(&ClockState { clock: kvm_clock_data::default(), wall_ns: 0 })?;
    for chip in 0..CHIPS {
        encoder.chip(chip as u16, &kvm_irqchip { chip_id: chip as u32, ..Default::default() })?;
    }
    encoder.pit(&kvm_pit_state2::default())?;
    encoder.serial(&SerialState::default())?;
    encoder.vcpu(0, &VcpuState::default())?;
    for (instance, state) in states.iter().enumerate() {
        encoder.device(instance as u16, state)?;
    }
    Ok(encoder.finish())
}

/// A state with sound checksums of what the bytes say: per section its kind, its number, two bytes of length and its
/// payload, cut off at the end.
fn sealed(mut bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    while let [kind, instance, low, high, rest @ ..] = bytes {
        let (_, name, version) = KINDS[usize::from(*kind) % KINDS.len()];
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, behind) = rest.split_at(length);
        let written = writer.section(name, version, u16::from(*instance), |mut to| {
            to.extend(payload);
            Ok::<_, std::convert::Infallible>(to)
        });
        let Ok(()) = written;
        bytes = behind;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DeviceState, load, whole};
    use crate::devices::virtio::hostile;

    /// The bytes can say what a device saves, of each kind.
    #[test]
    fn a_whole_state_gets_to_the_devices() {
        assert_eq!(load(&whole(&[])), Some(0));
        let mut bytes = Vec::new();
        for (kind, DeviceState { transport, function }) in hostile::saved().iter().enumerate() {
            use super::FunctionState::{Balloon, Block, Console, Net, Rng};
            let payload = match function {
                Net(net) => postcard::to_stdvec(&(transport, net)),
                Rng | Block => postcard::to_stdvec(&(transport, ())),
                Console(console) => postcard::to_stdvec(&(transport, console)),
                Balloon(balloon) => postcard::to_stdvec(&(transport, balloon)),
            };
            let payload = payload.expect("can be encoded");
            bytes.push(kind as u8);
            bytes.extend((payload.len() as u16).to_le_bytes());
            bytes.extend(payload);
        }
        assert_eq!(load(&whole(&bytes)), Some(5));
        // Part of the corpus; written anew where the format changes.
        let seed = [&[2], bytes.as_slice()].concat();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/state/all-devices");
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            std::fs::write(path, &seed).expect("can be written");
        }
        assert_eq!(std::fs::read(path).expect("is in the repository"), seed);
    }

    proptest! {
        #[test]
        fn arbitrary_states_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::state(&bytes);
        }
    }
}
