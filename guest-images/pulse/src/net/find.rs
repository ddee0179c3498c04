//! The search for a network device among the machine's virtio-mmio windows.

use core::fmt;
use core::ptr::NonNull;

use telemetry::command_line::{VirtioWindow, VirtioWindows};
use virtio_drivers::transport::mmio::{MmioTransport, MmioVersion, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

/// Why there is no network.
pub enum NoDevice {
    /// None of so many windows has a network device.
    None {
        /// Windows on the command line.
        windows: usize,
    },
    /// The device speaks the protocol of before virtio 1.
    Legacy(VirtioWindow),
    /// The device and this driver do not agree.
    Unusable {
        /// Where it is.
        window: VirtioWindow,
        /// What is wrong.
        problem: virtio_drivers::Error,
    },
}

impl fmt::Display for NoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None { windows } => {
                write!(
                    f,
                    "no network: net= is given, but no network device among {windows} virtio_mmio.device="
                )
            }
            Self::Legacy(window) => write!(
                f,
                "no network: the device at {:#x} is not virtio 1 (QEMU: -global virtio-mmio.force-legacy=false)",
                window.address
            ),
            Self::Unusable { window, problem } => {
                write!(f, "no network: the device at {:#x}: {problem}", window.address)
            }
        }
    }
}

/// The first network device.
pub fn network_device(windows: &VirtioWindows) -> Result<(MmioTransport<'static>, VirtioWindow), NoDevice> {
    for window in windows.iter() {
        let header =
            NonNull::new(core::ptr::with_exposed_provenance_mut::<VirtIOHeader>(window.address as usize));
        let Some(header) = header else { continue };
        // SAFETY: the machine says that a device's registers are there, and all below 4 GiB is mapped. Where it is
        // wrong, a read finds no magic number.
        let transport = unsafe { MmioTransport::new(header, window.bytes as usize) };
        let Ok(transport) = transport else { continue };
        if transport.device_type() != DeviceType::Network {
            continue;
        }
        if transport.version() == MmioVersion::Legacy {
            return Err(NoDevice::Legacy(*window));
        }
        return Ok((transport, *window));
    }
    Err(NoDevice::None { windows: windows.iter().count() })
}
