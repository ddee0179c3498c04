//! The I/O interrupt controller: its pins are where virtio devices interrupt. Its registers are memory, as the APIC's.

const IO_APIC: usize = 0xfec0_0000;
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
/// First of the redirection entries: two registers for each pin.
const REDIRECTION: u32 = 0x10;

/// Vector of all devices' interrupts; ring 0 has its handler at the same number.
const DEVICE_VECTOR: u32 = 0x41;

fn write(register: u32, value: u32) {
    // SAFETY: every machine this guest runs on has this controller at this address, and all is mapped; a selector and a
    // redirection entry make nothing touch memory.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u32>(IO_APIC + SELECT).write_volatile(register);
        core::ptr::with_exposed_provenance_mut::<u32>(IO_APIC + WINDOW).write_volatile(value);
    }
}

/// Sends a pin's interrupts to vCPU 0, edge-triggered: a level would interrupt again and again until ring 3, which runs
/// between the interrupts, comes to acknowledge the device.
pub fn route_to_boot_processor(pin: u8) {
    let entry = REDIRECTION + 2 * u32::from(pin);
    // The destination first: writing the low half opens the pin (fixed delivery, active high, edge, not masked).
    write(entry + 1, 0);
    write(entry, DEVICE_VECTOR);
}
