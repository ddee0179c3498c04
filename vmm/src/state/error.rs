//! Why bytes were not taken for a state.

use thiserror::Error;

use super::section::SectionError;
use crate::config::MAX_VCPUS;
use crate::devices::serial::SerialStateError;
use crate::devices::virtio::MAX_DEVICES;
use crate::devices::virtio::state::MAX_QUEUES;

/// Bytes that are not a state this program can apply. Nothing was changed.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The frame is unsound.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// A section from another program, or a later one.
    #[error("the state has a section {name:?}, which this program does not know")]
    UnknownSection {
        /// Its name.
        name: String,
    },
    /// A section of another version.
    #[error("section {name:?} has version {version}, and this program knows version {known}")]
    SectionVersion {
        /// The section's name.
        name: String,
        /// Its version.
        version: u16,
        /// The version known here.
        known: u16,
    },
    /// A section that is there already, or has a number it cannot have.
    #[error("the state has a section {name:?} number {instance} too many")]
    UnexpectedSection {
        /// Its name.
        name: String,
        /// Its number among those of its name.
        instance: u16,
    },
    /// A section is missing.
    #[error("the state has no section {name:?} number {instance}")]
    MissingSection {
        /// Its name.
        name: String,
        /// Its number among those of its name.
        instance: u16,
    },
    /// A payload that does not decode.
    #[error("section {name:?} number {instance} does not decode")]
    Payload {
        /// The section's name.
        name: String,
        /// Its number among those of its name.
        instance: u16,
        /// Where decoding stopped.
        source: postcard::Error,
    },
    /// A payload with something behind it.
    #[error("section {name:?} number {instance} has {bytes} bytes too many")]
    PayloadTooLong {
        /// The section's name.
        name: String,
        /// Its number among those of its name.
        instance: u16,
        /// How many.
        bytes: usize,
    },
    /// A vCPU's state beyond the limits.
    #[error("vCPU {vcpu} has {what} of {count}, more than the limit of {limit}")]
    VcpuLimit {
        /// The vCPU.
        vcpu: u16,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// More vCPUs than there may be.
    #[error("the state is of a machine with {vcpus} vCPUs: there may be 1 to {MAX_VCPUS}")]
    Vcpus {
        /// How many it says.
        vcpus: u8,
    },
    /// More devices than there may be.
    #[error("the state is of a machine with {devices} devices: there may be {MAX_DEVICES}")]
    Devices {
        /// How many it says.
        devices: usize,
    },
    /// More queues than a device may have.
    #[error("virtio device {device} has {queues} queues: there may be {MAX_QUEUES}")]
    Queues {
        /// The device.
        device: u16,
        /// How many it says.
        queues: usize,
    },
    /// The serial port's state is beyond its limits.
    #[error(transparent)]
    Serial(#[from] SerialStateError),
}
