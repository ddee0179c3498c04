//! Bytes as a saved state, for the fuzz target and its property test.

use super::machine::KINDS;
use super::section::Writer;
use super::{Encoder, MachineState};
use crate::devices::virtio::hostile;

/// A state that decodes is the same when it is encoded and decoded again, and may be loaded by devices.
pub fn state(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let sealed = if how & 1 == 0 { rest.to_vec() } else { sealed(rest) };
    let Ok(decoded) = MachineState::decode(&sealed) else { return };
    for device in &decoded.devices {
        hostile::load(device);
    }
    let mut again = Encoder::new(Vec::new());
    for (instance, device) in decoded.devices.iter().enumerate() {
        again.device(instance as u16, device).expect("what was decoded is encoded");
    }
    again.shape(&decoded.shape).expect("what was decoded is encoded");
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

    proptest! {
        #[test]
        fn arbitrary_states_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::state(&bytes);
        }
    }
}
