//! ACPI tables: how a kernel learns of processors, interrupts, devices, and of how to turn the machine off.
//!
//! ```text
//! 0xe0000  RSDP ─► XSDT ─► FADT ─► DSDT (`dsdt`: devices, by name)
//!                      └─► MADT (processors' local APICs, the I/O APIC)
//! ```
//! The machine is a *hardware-reduced* one (ACPI specification 6.5, 3.11.1): no fixed registers, no timer, no system
//! control interrupt, only a register to sleep by and one to reset by (`devices::power`). There is no PCI.

mod dsdt;
mod fixed;

use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use crate::memory::{AccessError, GuestMemory};

/// Where the root pointer lies: the start of the area that a kernel without other word searches for it (5.2.5.1).
pub(crate) const RSDP: u64 = 0xe_0000;
/// Tables start at multiples of this.
const ALIGNMENT: u64 = 64;

const OEM: [u8; 6] = *b"FERRY ";
const OEM_TABLE: [u8; 8] = *b"FERRYVMM";
const OEM_REVISION: u32 = 1;

/// The in-kernel interrupt chips: their addresses are KVM's defaults, the I/O APIC's 24 lines start at 0.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// What the tables tell of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Number of vCPUs; the local APIC's number is the vCPU's index.
    pub(crate) vcpus: u8,
    /// Number of virtio devices.
    pub(crate) virtio_devices: u8,
}

/// Writes all tables.
pub(crate) fn write(memory: &GuestMemory, machine: &Machine) -> Result<(), AccessError> {
    for (address, table) in tables(machine) {
        memory.write(address, &table)?;
    }
    Ok(())
}

/// All tables and where they go, without gaps but for alignment.
fn tables(machine: &Machine) -> Vec<(u64, Vec<u8>)> {
    let mut tables = Vec::new();
    let mut free = (RSDP + Rsdp::len() as u64).next_multiple_of(ALIGNMENT);
    let mut put = |table: &dyn Aml| {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = free;
        free = (free + bytes.len() as u64).next_multiple_of(ALIGNMENT);
        tables.push((address, bytes));
        address
    };
    // From the leaves to the root: each names the addresses of those below it.
    let dsdt = put(&dsdt::table(machine));
    let fadt = put(&fixed::table(dsdt));
    let madt = put(&interrupts(machine));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    tables.push((RSDP, root));
    tables
}

/// The MADT (5.2.12). No interrupt source overrides: line n of the ISA bus is line n of the I/O APIC.
fn interrupts(machine: &Machine) -> MADT {
    let mut table = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for vcpu in 0..machine.vcpus {
        table.add_structure(ProcessorLocalApic::new(vcpu, vcpu, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backing, MAX_VCPUS};
    use crate::devices::virtio::MAX_DEVICES;

    fn largest() -> Machine {
        Machine { vcpus: MAX_VCPUS, virtio_devices: MAX_DEVICES as u8 }
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    #[test]
    fn tables_are_found_from_the_root_and_sum_to_zero() {
        let memory = GuestMemory::new(16 << 20, Backing::Anonymous).expect("memory");
        let machine = Machine { vcpus: 2, virtio_devices: 1 };
        write(&memory, &machine).expect("in memory");
        let read = |address: u64, bytes: usize| {
            let mut into = vec![0; bytes];
            memory.read(address, &mut into).expect("in memory");
            into
        };
        let sums_to_zero = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0;
        let table = |address: u64| {
            let length = number(&read(address, 8), 4, 4) as usize;
            let bytes = read(address, length);
            assert!(sums_to_zero(&bytes), "{:?}", String::from_utf8_lossy(&bytes[..4]));
            bytes
        };
        // Offsets: tables 5.3, 5.8, 5.9 and 5.19 of the specification.
        let root = read(RSDP, 36);
        assert!(root.starts_with(b"RSD PTR ") && sums_to_zero(&root[..20]) && sums_to_zero(&root));
        let xsdt = table(number(&root, 24, 8));
        assert!(xsdt.starts_with(b"XSDT"));
        let (fadt, madt) = (table(number(&xsdt, 36, 8)), table(number(&xsdt, 44, 8)));
        assert!(fadt.starts_with(b"FACP") && madt.starts_with(b"APIC"));
        assert!(table(number(&fadt, 140, 8)).starts_with(b"DSDT"));
        assert_ne!(number(&fadt, 112, 4) & 1 << 20, 0, "hardware-reduced");
        assert_eq!(number(&madt, 36, 4), u64::from(LOCAL_APIC));
        // Two local APICs (type 0, 8 bytes: number and APIC, enabled), one I/O APIC (type 1, 12 bytes).
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(madt[52..60], [0, 8, 1, 1, 1, 0, 0, 0]);
        assert_eq!(madt[60..62], [1, 12]);
        assert_eq!(madt.len(), 72);
    }

    #[test]
    fn the_largest_machine_stays_below_its_kernel() {
        let mut end = 0;
        let mut tables = tables(&largest());
        tables.sort();
        for (address, bytes) in tables {
            assert!(address >= end, "tables lie apart");
            end = address + bytes.len() as u64;
        }
        assert!(end < 0xf_0000, "{end:#x}");
    }
}
