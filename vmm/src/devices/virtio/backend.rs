//! What a device needs of the host, and what its owner has of it.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::balloon::{Balloon, BalloonPort};
use super::block::{Block, Disk, HeldDisk};
use super::console::{ConsoleDevice, ConsolePort};
use super::function::Function;
use super::net::{Net, NetPort, Tap};
use super::rng::Rng;
use crate::config::DeviceConfig;
use crate::kvm::CallError;

/// What a device is given of the host, one for each [`DeviceConfig`] and in the same order.
#[derive(Debug)]
pub enum Backend {
    /// For [`DeviceConfig::Net`].
    Net(Tap),
    /// For [`DeviceConfig::Rng`]: the host's kernel has random bytes for all.
    Rng,
    /// For [`DeviceConfig::Block`], of the same size and as much to be written.
    Disk(Disk),
    /// For [`DeviceConfig::Console`]; see [`crate::Vm::virtio_consoles`].
    Console,
    /// For [`DeviceConfig::Balloon`]; see [`crate::Vm::balloons`].
    Balloon,
}

/// A device could not be made.
#[derive(Debug, Error)]
pub enum DeviceCreateError {
    /// Not a backend for each device.
    #[error("the machine has {devices} devices, and was given what {backends} devices need")]
    Count {
        /// Devices of the configuration.
        devices: usize,
        /// Backends given.
        backends: usize,
    },
    /// A backend of another kind.
    #[error("device {device} is a {wants} device, and was given what a {given} device needs")]
    Kind {
        /// Which, in the order of the configuration.
        device: usize,
        /// What the configuration says.
        wants: &'static str,
        /// What came.
        given: &'static str,
    },
    /// Another disk than the configuration says.
    #[error(
        "device {device} is a disk of {wants} bytes{}, and was given one of {given} bytes{}",
        if *wants_read_only { ", read-only" } else { "" },
        if *given_read_only { ", read-only" } else { "" }
    )]
    Disk {
        /// Which, in the order of the configuration.
        device: usize,
        /// Its size in bytes.
        wants: u64,
        /// Whether it is read-only.
        wants_read_only: bool,
        /// The size of what came.
        given: u64,
        /// Whether that is read-only.
        given_read_only: bool,
    },
    /// The host refused.
    #[error("prepare device {device}")]
    Host {
        /// Which.
        device: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// KVM refused.
    #[error("have KVM catch the notifications of device {device}")]
    Kvm {
        /// Which.
        device: usize,
        /// The call.
        source: CallError,
    },
}

impl Backend {
    fn name(&self) -> &'static str {
        match self {
            Backend::Net(_) => "net",
            Backend::Rng => "rng",
            Backend::Disk(_) => "block",
            Backend::Console => "console",
            Backend::Balloon => "balloon",
        }
    }
}

/// What the owner of a machine has of a device.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    Net(NetPort),
    Rng,
    Disk(Arc<HeldDisk>),
    Console(Arc<ConsolePort>),
    Balloon(BalloonPort),
}

/// A device's function, and what its owner has of it.
pub(super) fn function(
    device: usize,
    config: &DeviceConfig,
    backend: Backend,
    control: &Arc<EventFd>,
) -> Result<(Box<dyn Function>, Handle), DeviceCreateError> {
    let control = Arc::clone(control);
    match (config, backend) {
        (DeviceConfig::Net { mac }, Backend::Net(tap)) => {
            let (net, port) = Net::new(tap, *mac, control);
            Ok((Box::new(net), Handle::Net(port)))
        }
        (DeviceConfig::Rng, Backend::Rng) => Ok((Box::new(Rng), Handle::Rng)),
        (DeviceConfig::Block { read_only, bytes }, Backend::Disk(disk)) => {
            if (disk.bytes(), disk.is_read_only()) != (*bytes, *read_only) {
                return Err(DeviceCreateError::Disk {
                    device,
                    wants: *bytes,
                    wants_read_only: *read_only,
                    given: disk.bytes(),
                    given_read_only: disk.is_read_only(),
                });
            }
            let (block, disk) = Block::new(disk);
            Ok((Box::new(block), Handle::Disk(disk)))
        }
        (DeviceConfig::Console, Backend::Console) => {
            let (console, port) = ConsoleDevice::new(control);
            Ok((Box::new(console), Handle::Console(port)))
        }
        (DeviceConfig::Balloon, Backend::Balloon) => {
            let (balloon, port) = Balloon::new(control);
            Ok((Box::new(balloon), Handle::Balloon(port)))
        }
        (config, backend) => {
            Err(DeviceCreateError::Kind { device, wants: config.name(), given: backend.name() })
        }
    }
}
