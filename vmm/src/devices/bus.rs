//! The bus: finds the device for a port or an address.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What an access did beside reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing.
    Done,
    /// The guest is through, with this code.
    Exit(u8),
    /// The guest wants a reset.
    Reset,
    /// The guest turned the machine off.
    PowerOff,
    /// The guest panicked.
    Panic,
}

/// A device. Accesses come from vCPU threads, several at a time.
pub(crate) trait Device: Send + Sync + fmt::Debug {
    /// Reads at `offset` from the device's first port or address. A string instruction reads several times at once: as
    /// many bytes as `into` has, all from this port.
    fn read(&self, offset: u64, into: &mut [u8]);
    /// Writes at `offset`; as for `read`.
    fn write(&self, offset: u64, bytes: &[u8]) -> Outcome;
}

type Place = (Range<u64>, Arc<dyn Device>);

/// All devices of a machine, by port and by address. Fixed when the machine is made: vCPUs look things up unlocked.
#[derive(Debug)]
pub(crate) struct Bus {
    ports: Vec<Place>,
    addresses: Vec<Place>,
}

impl Bus {
    /// A bus with devices at `ports` and at guest-physical `addresses`.
    pub(crate) fn new(ports: Vec<Place>, addresses: Vec<Place>) -> Bus {
        Bus { ports, addresses }
    }

    pub(crate) fn port_read(&self, port: u16, into: &mut [u8]) {
        read(&self.ports, u64::from(port), into);
    }

    pub(crate) fn port_write(&self, port: u16, bytes: &[u8]) -> Outcome {
        write(&self.ports, u64::from(port), bytes)
    }

    pub(crate) fn mmio_read(&self, address: u64, into: &mut [u8]) {
        read(&self.addresses, address, into);
    }

    pub(crate) fn mmio_write(&self, address: u64, bytes: &[u8]) -> Outcome {
        write(&self.addresses, address, bytes)
    }
}

/// Where nobody answers the bus floats: all ones.
fn read(places: &[Place], at: u64, into: &mut [u8]) {
    match find(places, at) {
        Some((range, device)) => device.read(at - range.start, into),
        None => into.fill(0xff),
    }
}

fn write(places: &[Place], at: u64, bytes: &[u8]) -> Outcome {
    find(places, at).map_or(Outcome::Done, |(range, device)| device.write(at - range.start, bytes))
}

/// A handful of devices: a look at each is faster than a tree.
fn find(places: &[Place], at: u64) -> Option<&Place> {
    places.iter().find(|(range, _)| range.contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Echo;

    impl Device for Echo {
        fn read(&self, offset: u64, into: &mut [u8]) {
            into.fill(offset as u8);
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> Outcome {
            Outcome::Exit(offset as u8 + bytes[0])
        }
    }

    #[test]
    fn accesses_find_their_device_or_float() {
        let bus =
            Bus::new(vec![(0x10..0x18, Arc::new(Echo))], vec![(1 << 40..(1 << 40) + 8, Arc::new(Echo))]);
        let mut byte = [0; 2];
        bus.port_read(0x17, &mut byte);
        assert_eq!(byte, [7, 7]);
        bus.port_read(0x18, &mut byte);
        assert_eq!(byte, [0xff, 0xff]);
        bus.mmio_read(0x10, &mut byte);
        assert_eq!(byte, [0xff, 0xff]);
        assert_eq!(bus.mmio_write((1 << 40) + 2, &[3]), Outcome::Exit(5));
        assert_eq!(bus.port_write(0xf, &[3]), Outcome::Done);
    }
}
