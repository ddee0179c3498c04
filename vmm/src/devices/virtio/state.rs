//! What is saved of a device.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::balloon::BalloonState;
use super::console::ConsoleState;
use super::net::NetState;
use super::queue::QueueRegisters;
use super::registers::Registers;

/// Most queues of a device.
pub(crate) const MAX_QUEUES: usize = 8;

/// A device's state but for what its kind adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransportState {
    pub(crate) registers: Registers,
    pub(crate) interrupt_status: u32,
    pub(crate) queues: Vec<QueueRegisters>,
}

/// What a kind of device adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FunctionState {
    Net(NetState),
    Rng,
    Block,
    Console(ConsoleState),
    Balloon(BalloonState),
}

/// All of a device's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceState {
    pub(crate) transport: TransportState,
    pub(crate) function: FunctionState,
}

/// A state that no device of that kind has.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FunctionStateError {
    /// Another kind of device.
    #[error("it is of another kind of device")]
    Kind,
    /// Too much of something.
    #[error("it holds {what} of {count}, more than the limit of {limit}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// Something no device has.
    #[error("it holds {what}")]
    Impossible {
        /// What.
        what: &'static str,
    },
}

/// A state was not taken over by a device. Nothing was changed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the state of virtio device {device} does not fit")]
pub struct DeviceStateError {
    /// Which, in the order of the machine's configuration.
    pub device: usize,
    /// Why.
    pub source: FunctionStateError,
}
