//! The registers of a device, and which writes a driver may do when (Virtual I/O Device version 1.2, 3.1 and 4.2.2).

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use serde::{Deserialize, Serialize};

/// Features of every device.
pub(super) const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Status bits that a driver sets.
const DRIVER_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// The registers that are not a queue's and not the interrupt's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registers {
    pub(crate) status: u32,
    pub(crate) device_features_select: u32,
    pub(crate) driver_features_select: u32,
    pub(crate) driver_features: u64,
    pub(crate) queue_select: u32,
    pub(crate) config_generation: u32,
}

impl Registers {
    /// The driver is done with its preparations, and nothing is broken.
    pub(super) fn is_live(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET)
    }

    /// Queues may be made ready.
    pub(super) fn features_agreed(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// Both agreed to tell each other by index when to kick and to interrupt.
    pub(super) fn event_idx(&self) -> bool {
        self.driver_features >> VIRTIO_RING_F_EVENT_IDX & 1 == 1
    }

    /// The half of `offered` that is selected.
    pub(super) fn selected_features(&self, offered: u64) -> u32 {
        half(offered, self.device_features_select)
    }

    /// The driver takes features, of the half it selected.
    pub(super) fn take_features(&mut self, value: u32) {
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if !self.features_agreed() {
            self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
        }
    }

    /// The driver sets status bits, at least one. Those that it may not set yet stay clear, which is how it learns that
    /// the device does not agree with its features.
    pub(super) fn add_status(&mut self, value: u32, offered: u64) {
        let mut added = value & DRIVER_BITS & !self.status;
        let acceptable =
            self.driver_features & !offered == 0 && self.driver_features >> VIRTIO_F_VERSION_1 & 1 == 1;
        if !acceptable {
            added &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if (self.status | added) & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status |= added;
    }

    /// The device can only go on after a reset.
    pub(super) fn set_needs_reset(&mut self) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }

    pub(super) fn reset(&mut self) {
        *self = Registers { config_generation: self.config_generation, ..Registers::default() };
    }

    /// Whether a driver could have brought a device with the `offered` features here.
    pub(super) fn is_possible(&self, offered: u64) -> bool {
        self.status & !(DRIVER_BITS | VIRTIO_CONFIG_S_NEEDS_RESET) == 0
            && (!self.features_agreed() || self.driver_features & !offered == 0)
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_agreed_on_only_if_offered_and_modern() {
        let offered = COMMON_FEATURES | 1 << 5;
        for (taken, agreed) in
            [(1u64 << 32, true), (1 << 32 | 1 << 5, true), (1 << 5, false), (1 << 32 | 1 << 6, false)]
        {
            let mut registers = Registers::default();
            registers.take_features(taken as u32);
            registers.driver_features_select = 1;
            registers.take_features((taken >> 32) as u32);
            registers.add_status(3, offered);
            registers.add_status(11, offered);
            assert_eq!(registers.features_agreed(), agreed, "{taken:#x}");
            registers.add_status(15, offered);
            assert_eq!(registers.is_live(), agreed, "{taken:#x}");
            assert!(registers.is_possible(offered));
            let before = registers.driver_features;
            registers.take_features(!(before >> 32) as u32);
            assert_eq!(registers.driver_features == before, agreed, "fixed once agreed");
        }
    }
}
