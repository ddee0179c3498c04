//! What a destination must know of a KVM machine, as bytes: the format of `OfferedVm::machine` for this kind.
//!
//! Types of their own, so that a change of `vmm`'s is none of the wire.

use serde::{Deserialize, Serialize};
use vmm::{CpuLeaf, CpuModel, DeviceConfig, MacAddress};

/// The machine's CPU and devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub cpu: CpuModel,
    pub devices: Vec<DeviceConfig>,
}

#[derive(Serialize, Deserialize)]
struct WireMachine {
    cpu: WireCpu,
    devices: Vec<WireDevice>,
}

#[derive(Serialize, Deserialize)]
struct WireCpu {
    leaves: Vec<WireLeaf>,
    tsc_khz: u32,
}

/// A question and an answer of CPUID.
#[derive(Serialize, Deserialize)]
struct WireLeaf {
    function: u32,
    index: u32,
    flags: u32,
    eax: u32,
    ebx: u32,
    ecx: u32,
    edx: u32,
}

#[derive(Serialize, Deserialize)]
enum WireDevice {
    Net { mac: [u8; 6] },
    Rng,
    Block { read_only: bool, bytes: u64 },
    Console,
    Balloon,
}

impl Machine {
    pub fn encode(self) -> Result<Vec<u8>, postcard::Error> {
        let CpuModel { leaves, tsc_khz } = self.cpu;
        let leaves = leaves.into_iter().map(WireLeaf::from).collect();
        let devices = self.devices.into_iter().map(WireDevice::from).collect();
        postcard::to_stdvec(&WireMachine { cpu: WireCpu { leaves, tsc_khz }, devices })
    }

    pub fn decode(bytes: &[u8]) -> Result<Machine, postcard::Error> {
        let WireMachine { cpu: WireCpu { leaves, tsc_khz }, devices } = postcard::from_bytes(bytes)?;
        let leaves = leaves.into_iter().map(CpuLeaf::from).collect();
        let devices = devices.into_iter().map(DeviceConfig::from).collect();
        Ok(Machine { cpu: CpuModel { leaves, tsc_khz }, devices })
    }
}

impl From<CpuLeaf> for WireLeaf {
    fn from(leaf: CpuLeaf) -> WireLeaf {
        let CpuLeaf { function, index, flags, eax, ebx, ecx, edx } = leaf;
        WireLeaf { function, index, flags, eax, ebx, ecx, edx }
    }
}

impl From<WireLeaf> for CpuLeaf {
    fn from(leaf: WireLeaf) -> CpuLeaf {
        let WireLeaf { function, index, flags, eax, ebx, ecx, edx } = leaf;
        CpuLeaf { function, index, flags, eax, ebx, ecx, edx }
    }
}

impl From<DeviceConfig> for WireDevice {
    fn from(device: DeviceConfig) -> WireDevice {
        match device {
            DeviceConfig::Net { mac: MacAddress(mac) } => WireDevice::Net { mac },
            DeviceConfig::Rng => WireDevice::Rng,
            DeviceConfig::Block { read_only, bytes } => WireDevice::Block { read_only, bytes },
            DeviceConfig::Console => WireDevice::Console,
            DeviceConfig::Balloon => WireDevice::Balloon,
        }
    }
}

impl From<WireDevice> for DeviceConfig {
    fn from(device: WireDevice) -> DeviceConfig {
        match device {
            WireDevice::Net { mac } => DeviceConfig::Net { mac: MacAddress(mac) },
            WireDevice::Rng => DeviceConfig::Rng,
            WireDevice::Block { read_only, bytes } => DeviceConfig::Block { read_only, bytes },
            WireDevice::Console => DeviceConfig::Console,
            WireDevice::Balloon => DeviceConfig::Balloon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_machine() -> Machine {
        let leaf = CpuLeaf { function: 1, index: 2, flags: 1, eax: 3, ebx: 4, ecx: 0x8000_0000, edx: 5 };
        let devices = vec![
            DeviceConfig::Net { mac: MacAddress([2, 0, 0, 0, 0, 1]) },
            DeviceConfig::Rng,
            DeviceConfig::Block { read_only: true, bytes: 1 << 20 },
            DeviceConfig::Console,
            DeviceConfig::Balloon,
        ];
        Machine { cpu: CpuModel { leaves: vec![leaf], tsc_khz: 2_000_000 }, devices }
    }

    /// Of protocol version 5.
    #[test]
    fn the_bytes_of_a_description_do_not_change() {
        let golden = [
            &[1, 1, 2, 1, 3, 4, 0x80, 0x80, 0x80, 0x80, 0x08, 5, 0x80, 0x89, 0x7a][..],
            &[5, 0, 2, 0, 0, 0, 0, 1, 1, 2, 1, 0x80, 0x80, 0x40, 3, 4],
        ]
        .concat();
        let found = a_machine().encode().unwrap();
        assert_eq!(found, golden, "a KVM machine's description differs on the wire: new version?");
        assert_eq!(Machine::decode(&golden), Ok(a_machine()));
        for length in 0..golden.len() {
            assert!(Machine::decode(&golden[..length]).is_err(), "{length} bytes");
        }
    }
}
