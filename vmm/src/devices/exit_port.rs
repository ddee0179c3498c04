//! The exit port: a byte written here ends the guest's run, as QEMU's `isa-debug-exit` does.

use std::ops::Range;

use super::bus::{Device, Outcome};

/// Takes an exit code.
#[derive(Debug)]
pub(crate) struct ExitPort;

impl ExitPort {
    /// Its ports: four, as a guest may write a byte or a word of 32 bits.
    pub(crate) const PORTS: Range<u64> = 0xf4..0xf8;
}

impl Device for ExitPort {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    fn write(&self, _offset: u64, bytes: &[u8]) -> Outcome {
        bytes.first().map_or(Outcome::Done, |code| Outcome::Exit(*code))
    }
}
