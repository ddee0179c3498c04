//! The devices by name, DSDT (ACPI specification 6.5, 5.2.11.1).

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{Machine, OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::{PanicPort, power, serial, virtio};

/// Bytes of a table's header.
const HEADER_BYTES: u32 = 36;
/// The revision from which integers have 64 bits.
const REVISION: u8 = 2;

/// The table of `machine`.
pub(super) fn table(machine: &Machine) -> Sdt {
    let mut devices: Vec<Box<dyn Aml>> = vec![Box::new(Serial), Box::new(Panic)];
    devices.extend((0..machine.vcpus).map(|vcpu| Box::new(Processor(vcpu)) as _));
    devices.extend((0..machine.virtio_devices).map(|device| Box::new(Virtio(device)) as _));
    let mut code = Vec::new();
    let bus = devices.iter().map(|device| &**device).collect();
    Scope::new("_SB_".into(), bus).to_aml_bytes(&mut code);
    // What to write for each of the two sleep types; hardware-reduced machines use the first (7.4.2).
    let off = Package::new(vec![&power::SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut code);
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&code);
    table
}

/// A line of the I/O APIC, edge-triggered, active high, not shared.
fn line(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

/// COM1, a 16550.
struct Serial;

impl Aml for Serial {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let first = serial::PORTS.start as u16;
        let ports = IO::new(first, first, 1, (serial::PORTS.end - serial::PORTS.start) as u8);
        let line = line(serial::INTERRUPT_LINE);
        let device: [&dyn Aml; 3] = [
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &line])),
        ];
        Device::new("COM1".into(), device.to_vec()).to_aml_bytes(sink);
    }
}

/// Where a kernel tells that it panicked: QEMU's pvpanic, which Linux knows.
struct Panic;

impl Aml for Panic {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let first = PanicPort::PORTS.start as u16;
        let device: [&dyn Aml; 3] = [
            &Name::new("_HID".into(), &"QEMU0001"),
            // Present, enabled, working; not to be shown to a user.
            &Name::new("_STA".into(), &0xbu8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&IO::new(first, first, 1, 1)])),
        ];
        Device::new("PEVT".into(), device.to_vec()).to_aml_bytes(sink);
    }
}

/// A vCPU, by the number that the MADT gives it.
struct Processor(u8);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let device: [&dyn Aml; 2] =
            [&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &self.0)];
        Device::new(format!("CP{:02X}", self.0).as_str().into(), device.to_vec()).to_aml_bytes(sink);
    }
}

/// A virtio device over MMIO.
struct Virtio(u8);

impl Aml for Virtio {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let number = usize::from(self.0);
        let (window, bytes) = (virtio::window_of(number) as u32, virtio::WINDOW_BYTES as u32);
        let window = Memory32Fixed::new(true, window, bytes);
        let line = line(virtio::line_of(number));
        let device: [&dyn Aml; 4] = [
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &self.0),
            // It sees memory as the vCPUs' caches do.
            &Name::new("_CCA".into(), &1u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&window, &line])),
        ];
        Device::new(format!("VR{number:02X}").as_str().into(), device.to_vec()).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(table: &[u8], bytes: &[u8]) -> bool {
        table.windows(bytes.len()).any(|window| window == bytes)
    }

    #[test]
    fn every_device_is_there_once() {
        let table = table(&Machine { vcpus: 3, virtio_devices: 2 });
        let bytes = table.as_slice();
        let count = |name: &[u8]| bytes.windows(name.len()).filter(|window| *window == name).count();
        assert_eq!(count(b"COM1"), 1);
        assert_eq!(count(b"ACPI0007\0"), 3);
        assert_eq!(count(b"LNRO0005\0"), 2);
        assert!(holds(bytes, b"CP02") && !holds(bytes, b"CP03"));
        assert!(holds(bytes, b"VR01") && !holds(bytes, b"VR02"));
        assert_eq!(bytes[4..8], (bytes.len() as u32).to_le_bytes());
    }

    #[test]
    fn a_virtio_device_has_its_window_and_its_line() {
        let mut bytes = Vec::new();
        Virtio(7).to_aml_bytes(&mut bytes);
        // Memory32Fixed (6.4.3.4): tag, length, writable, base, length.
        assert!(holds(&bytes, &[0x86, 9, 0, 1, 0, 0x70, 0, 0xd0, 0, 0x10, 0, 0]));
        // Extended interrupt (6.4.3.6): tag, length, consumer and edge, one line, 23.
        assert!(holds(&bytes, &[0x89, 6, 0, 3, 1, 23, 0, 0, 0]));
    }
}
