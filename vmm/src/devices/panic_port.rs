//! Where a kernel tells that it panicked (QEMU, docs/specs/pvpanic.rst). Linux finds it through ACPI.

use std::ops::Range;

use super::bus::{Device, Outcome};

/// Bit 0: the guest panicked. All that is offered: a kernel that only wrote its crash down says so by other means.
const PANICKED: u8 = 1;

/// Reads as what it understands, takes what happened.
#[derive(Debug)]
pub(crate) struct PanicPort;

impl PanicPort {
    /// Its port.
    pub(crate) const PORTS: Range<u64> = 0x505..0x506;
}

impl Device for PanicPort {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(PANICKED);
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Outcome {
        match bytes.first() {
            Some(events) if events & PANICKED != 0 => Outcome::Panic,
            _ => Outcome::Done,
        }
    }
}
