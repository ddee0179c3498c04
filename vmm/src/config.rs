//! What a machine is made of, and the limits on it.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::devices::virtio::MAX_DEVICES;
use crate::devices::virtio::block::SECTOR_BYTES;
use crate::devices::virtio::net::MacAddress;
use crate::memory::PAGE_BYTES;

/// Least guest memory, in bytes: 16 MiB.
pub const MIN_MEMORY_BYTES: u64 = 16 << 20;
/// Most guest memory, in bytes: 1 TiB. A bound for hostile input, far above what this VMM is used for.
pub const MAX_MEMORY_BYTES: u64 = 1 << 40;
/// Most vCPUs.
pub const MAX_VCPUS: u8 = 16;
/// Size of a huge page in bytes; memory on [`Backing::Hugetlbfs`] is a multiple of it.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// What holds the guest's memory on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory, with transparent huge pages where the host gives them. The default: fresh pages cost
    /// a third of a memfd's, and installing missing ones is half as dear again on a memfd.
    #[default]
    Anonymous,
    /// A memfd: memory another process could map. No huge pages on most hosts (`shmem_enabled`).
    Memfd,
    /// Reserved huge pages of 2 MiB (`/proc/sys/vm/nr_hugepages`). Missing pages cannot be served on it.
    Hugetlbfs,
}

/// The shape of a machine, fixed at creation. Two machines of one `VmConfig` and one [`crate::CpuModel`] can take each
/// other's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Guest memory in bytes: a multiple of 4096, [`MIN_MEMORY_BYTES`] to [`MAX_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// What holds the memory; a matter of this host only, so two sides may differ in it.
    pub backing: Backing,
    /// Its virtio devices, at most [`MAX_DEVICES`], each in the place that its number here gives it.
    pub devices: Vec<DeviceConfig>,
}

/// A virtio device as the guest sees it; what it is given of the host is a [`crate::Backend`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceConfig {
    /// A network card.
    Net {
        /// Its address.
        mac: MacAddress,
    },
    /// A source of random bytes.
    Rng,
    /// A disk.
    Block {
        /// The guest may only read it.
        read_only: bool,
        /// Its size in bytes, a multiple of 512.
        bytes: u64,
    },
    /// A console beside the serial port.
    Console,
    /// A balloon.
    Balloon,
}

impl fmt::Display for DeviceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceConfig::Net { mac } => write!(f, "net {mac}"),
            DeviceConfig::Block { read_only, bytes } => {
                write!(f, "block of {bytes} bytes{}", if *read_only { ", read-only" } else { "" })
            }
            DeviceConfig::Rng | DeviceConfig::Console | DeviceConfig::Balloon => f.write_str(self.name()),
        }
    }
}

impl DeviceConfig {
    /// The kind, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            DeviceConfig::Net { .. } => "net",
            DeviceConfig::Rng => "rng",
            DeviceConfig::Block { .. } => "block",
            DeviceConfig::Console => "console",
            DeviceConfig::Balloon => "balloon",
        }
    }
}

/// A machine that cannot be built on any host.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Memory out of bounds.
    #[error(
        "guest memory of {bytes} bytes is out of bounds: it must be {min} to {max} bytes",
        min = MIN_MEMORY_BYTES,
        max = MAX_MEMORY_BYTES
    )]
    MemoryOutOfBounds {
        /// The memory asked for.
        bytes: u64,
    },
    /// Memory not made of whole pages.
    #[error("guest memory of {bytes} bytes is not a multiple of {multiple} bytes")]
    MemoryNotPages {
        /// The memory asked for.
        bytes: u64,
        /// The page size of the backing.
        multiple: u64,
    },
    /// Too few or too many vCPUs.
    #[error("{vcpus} vCPUs are out of bounds: there must be 1 to {max}", max = MAX_VCPUS)]
    VcpusOutOfBounds {
        /// The vCPUs asked for.
        vcpus: u8,
    },
    /// Too many devices.
    #[error("{devices} devices are too many: there may be {max}", max = MAX_DEVICES)]
    TooManyDevices {
        /// The devices asked for.
        devices: usize,
    },
    /// A group's address, or none.
    #[error("device {device} cannot have the MAC address {mac}: it is a group's, or all zeros")]
    Mac {
        /// Which, in the order of the configuration.
        device: usize,
        /// The address asked for.
        mac: MacAddress,
    },
    /// Half a sector.
    #[error(
        "device {device} cannot be a disk of {bytes} bytes: it must be a multiple of {SECTOR_BYTES}, and not none"
    )]
    DiskBytes {
        /// Which, in the order of the configuration.
        device: usize,
        /// The size asked for.
        bytes: u64,
    },
}

impl VmConfig {
    /// Checks the bounds; says nothing about what this host has free.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES).contains(&self.memory_bytes) {
            return Err(ConfigError::MemoryOutOfBounds { bytes: self.memory_bytes });
        }
        let multiple = match self.backing {
            Backing::Anonymous | Backing::Memfd => PAGE_BYTES,
            Backing::Hugetlbfs => HUGE_PAGE_BYTES,
        };
        if !self.memory_bytes.is_multiple_of(multiple) {
            return Err(ConfigError::MemoryNotPages { bytes: self.memory_bytes, multiple });
        }
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(ConfigError::VcpusOutOfBounds { vcpus: self.vcpus });
        }
        if self.devices.len() > MAX_DEVICES {
            return Err(ConfigError::TooManyDevices { devices: self.devices.len() });
        }
        for (device, config) in self.devices.iter().enumerate() {
            match config {
                DeviceConfig::Net { mac } if !mac.is_unicast() => {
                    return Err(ConfigError::Mac { device, mac: *mac });
                }
                DeviceConfig::Block { bytes, .. } if *bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) => {
                    return Err(ConfigError::DiskBytes { device, bytes: *bytes });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(memory_bytes: u64, vcpus: u8) -> VmConfig {
        VmConfig { memory_bytes, vcpus, backing: Backing::Anonymous, devices: Vec::new() }
    }

    #[test]
    fn bounds_are_inclusive() {
        assert_eq!(config(MIN_MEMORY_BYTES, 1).check(), Ok(()));
        assert_eq!(config(MIN_MEMORY_BYTES, MAX_VCPUS).check(), Ok(()));
        assert!(config(MIN_MEMORY_BYTES - PAGE_BYTES, 1).check().is_err());
        assert!(config(MAX_MEMORY_BYTES + PAGE_BYTES, 1).check().is_err());
        assert!(config(MIN_MEMORY_BYTES + 1, 1).check().is_err());
        assert!(config(MIN_MEMORY_BYTES, 0).check().is_err());
        assert!(config(MIN_MEMORY_BYTES, MAX_VCPUS + 1).check().is_err());
    }

    #[test]
    fn devices_have_bounds() {
        let with = |devices| VmConfig { devices, ..config(MIN_MEMORY_BYTES, 1) }.check();
        assert_eq!(with(vec![DeviceConfig::Rng; MAX_DEVICES]), Ok(()));
        assert!(with(vec![DeviceConfig::Rng; MAX_DEVICES + 1]).is_err());
        let group = MacAddress([0xff; 6]);
        let refused = with(vec![DeviceConfig::Rng, DeviceConfig::Net { mac: group }]);
        assert_eq!(refused, Err(ConfigError::Mac { device: 1, mac: group }));
    }
}
