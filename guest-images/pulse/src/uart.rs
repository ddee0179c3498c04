//! COM1, polled: the console's bottom.

use crate::cpu::{inb, outb};

const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;

/// Bytes that fit a 16550's transmit FIFO once it says that it is empty.
pub const FIFO_BYTES: usize = 16;

/// 8 bits, no parity, FIFOs on, an interrupt for each byte received.
pub fn init() {
    outb(LINE_CONTROL, 0x80);
    outb(DATA, 1); // divisor: 115 200 baud
    outb(INTERRUPT_ENABLE, 0);
    outb(LINE_CONTROL, 0x03);
    outb(FIFO_CONTROL, 0x07);
    // What was typed before boot goes; QEMU takes no more input until the data register has been read once.
    inb(DATA);
    outb(MODEM_CONTROL, 0x0b); // OUT2 connects the interrupt line
    outb(INTERRUPT_ENABLE, 0x01);
}

/// A received byte, if there is one.
pub fn receive() -> Option<u8> {
    (inb(LINE_STATUS) & 0x01 != 0).then(|| inb(DATA))
}

/// Whether [`FIFO_BYTES`] may be sent.
pub fn can_send() -> bool {
    inb(LINE_STATUS) & 0x20 != 0
}

/// Sends a byte; the caller has seen [`can_send`].
pub fn send(byte: u8) {
    outb(DATA, byte);
}

/// Sends text at once: at boot, and in reports that nothing comes after.
pub fn say(text: core::fmt::Arguments<'_>) {
    // `Blocking` never fails: what the port does not take is dropped.
    core::fmt::Write::write_fmt(&mut Blocking, text).ok();
}

struct Blocking;

impl core::fmt::Write for Blocking {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // Bounded: a console nobody reads must not keep the guest from stopping.
            for _ in 0..100_000 {
                if can_send() {
                    break;
                }
            }
            send(byte);
        }
        Ok(())
    }
}
