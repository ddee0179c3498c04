//! The registers a hardware-reduced ACPI machine is turned off and reset by (ACPI specification 6.5, 4.8.3.7 and
//! 4.8.3.6). No state: what is written acts at once.

use std::ops::Range;

use super::bus::{Device, Outcome};

/// Ports of the three registers.
pub(crate) const PORTS: Range<u64> = 0x600..0x603;
/// The sleep control register's port: sleep type (bits 4:2) and sleep enable (bit 5).
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
/// The sleep status register's port; there is nothing to wake from.
pub(crate) const SLEEP_STATUS: u16 = 0x601;
/// The reset register's port.
pub(crate) const RESET: u16 = 0x602;
/// What resets the machine there.
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep type that turns the machine off, S5.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

const SLEEP_ENABLE: u8 = 1 << 5;

/// The three registers.
#[derive(Debug)]
pub(crate) struct PowerRegisters;

impl Device for PowerRegisters {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Outcome {
        let Some(value) = bytes.first() else {
            return Outcome::Done;
        };
        match PORTS.start as u16 + offset as u16 {
            SLEEP_CONTROL if *value == SLEEP_ENABLE | SLEEP_TYPE_OFF << 2 => Outcome::PowerOff,
            RESET if *value == RESET_VALUE => Outcome::Reset,
            _ => Outcome::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_value_at_the_right_place_ends_a_machine() {
        let registers = PowerRegisters;
        assert_eq!(registers.write(0, &[0x34]), Outcome::PowerOff);
        assert_eq!(registers.write(2, &[1]), Outcome::Reset);
        for (offset, value) in [(0, 0x14), (0, 0x20), (0, 0x30), (1, 0x34), (1, 0x80), (2, 0), (2, 0x34)] {
            assert_eq!(registers.write(offset, &[value]), Outcome::Done, "{value:#x} at {offset}");
        }
    }
}
