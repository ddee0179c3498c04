//! The fixed description table, FADT (ACPI specification 6.5, 5.2.9): which registers there are.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::devices::power;

// 5.2.9.3: no VGA, no CMOS clock (a guest gets its time from kvmclock). Message-signalled interrupts need PCI. Bit 1,
// a keyboard controller, is off: there is only as much of one as a reset needs, which kernels use unasked.
const NO_VGA: u16 = 1 << 2;
const NO_MSI: u16 = 1 << 3;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// The table for a machine whose devices are described at `dsdt`.
pub(super) fn table(dsdt: u64) -> FADT {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // "Must be set": caches are written back by WBINVD.
        .flag(Flags::Wbinvd)
        // No buttons at fixed places.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    table.iapc_boot_arch = (NO_VGA | NO_MSI | NO_CMOS_CLOCK).into();
    table.sleep_control_reg = port(power::SLEEP_CONTROL);
    table.sleep_status_reg = port(power::SLEEP_STATUS);
    table.reset_reg = port(power::RESET);
    table.reset_value = power::RESET_VALUE;
    table.finalize()
}

fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port))
}
