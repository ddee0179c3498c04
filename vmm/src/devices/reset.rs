//! As much of the PC's keyboard controller as a kernel needs to reset the machine.

use std::ops::Range;

use super::bus::{Device, Outcome};

/// "Pulse the reset line."
const PULSE_RESET: u8 = 0xfe;

/// Knows one command.
#[derive(Debug)]
pub(crate) struct KeyboardController;

impl KeyboardController {
    /// Its command port.
    pub(crate) const PORTS: Range<u64> = 0x64..0x65;
}

impl Device for KeyboardController {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        // Status: buffers empty, so that a kernel that polls before it writes goes on.
        into.fill(0);
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Outcome {
        if bytes.first() == Some(&PULSE_RESET) { Outcome::Reset } else { Outcome::Done }
    }
}
