//! The console, for people: a few commands, an echo, and output a byte at a time.
//!
//! A byte costs an exit to the machine, some 30 µs. So output is queued, and one byte is one step of the loop: even a
//! guest that talks has no gaps of its own making.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::uart;

/// Set by ring 0's handler of the serial interrupt.
#[unsafe(no_mangle)]
static serial_received: AtomicU32 = AtomicU32::new(0);

/// What a user asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Command {
    /// Check all memory.
    Check,
    /// Say how things are.
    Status,
    /// Stop with an exit code.
    Stop(u8),
}

/// Output queue and the line being typed.
pub struct Console {
    queue: [u8; Self::QUEUE],
    head: usize,
    tail: usize,
    /// Bytes that may be sent before the transmitter is asked again.
    credit: usize,
    line: [u8; 64],
    length: usize,
    next_look: u64,
}

impl Console {
    const QUEUE: usize = 2048;

    /// A console with nothing to say.
    pub const fn new() -> Self {
        Self { queue: [0; Self::QUEUE], head: 0, tail: 0, credit: 0, line: [0; 64], length: 0, next_look: 0 }
    }

    /// Whether there is output left.
    pub const fn has_output(&self) -> bool {
        self.head != self.tail
    }

    /// Sends one byte, or asks whether one can be sent.
    pub fn send_one(&mut self) {
        if self.credit == 0 {
            self.credit = if uart::can_send() { uart::FIFO_BYTES } else { 0 };
        } else if self.has_output() {
            uart::send(self.queue[self.head]);
            self.head = (self.head + 1) % Self::QUEUE;
            self.credit -= 1;
        }
    }

    /// Sends all there is. Bounded: a console nobody reads must not keep the guest from stopping.
    pub fn flush(&mut self) {
        for _ in 0..4 * Self::QUEUE {
            if self.has_output() {
                self.send_one();
            }
        }
    }

    /// Reads a byte if the serial port has interrupted, or four times a second, so that an interrupt that was lost
    /// costs a moment and not the console.
    pub fn poll(&mut self, now: u64, tsc_khz: u64) -> Option<Command> {
        if serial_received.load(Relaxed) == 0 && now < self.next_look {
            return None;
        }
        self.next_look = now + tsc_khz * 250;
        serial_received.store(0, Relaxed);
        let byte = uart::receive()?;
        // There may be more, and no further interrupt for it.
        serial_received.store(1, Relaxed);
        self.typed(byte)
    }

    fn typed(&mut self, byte: u8) -> Option<Command> {
        match byte {
            b'\r' | b'\n' => {
                self.say(format_args!("\r\n"));
                let line = self.line;
                let length = core::mem::take(&mut self.length);
                self.command(core::str::from_utf8(&line[..length]).unwrap_or("?").trim())
            }
            0x08 | 0x7f => {
                if self.length > 0 {
                    self.length -= 1;
                    self.say(format_args!("\x08 \x08"));
                }
                None
            }
            b' '..=b'~' if self.length < self.line.len() => {
                self.line[self.length] = byte;
                self.length += 1;
                self.push(byte);
                None
            }
            _ => None,
        }
    }

    fn command(&mut self, line: &str) -> Option<Command> {
        let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => None,
            "check" => Some(Command::Check),
            "status" => Some(Command::Status),
            "stop" => match argument.trim() {
                "" => Some(Command::Stop(0)),
                code => code.parse().ok().map(Command::Stop),
            },
            _ => {
                self.say(format_args!("commands: check, status, stop [CODE]\r\n"));
                None
            }
        }
    }

    fn push(&mut self, byte: u8) {
        let next = (self.tail + 1) % Self::QUEUE;
        // A full queue drops the rest: nobody may wait for a console.
        if next != self.head {
            self.queue[self.tail] = byte;
            self.tail = next;
        }
    }
}

impl Console {
    /// Queues text.
    pub fn say(&mut self, text: fmt::Arguments<'_>) {
        // `write_str` below never fails; what does not fit is dropped, since nobody may wait for a console.
        self.write_fmt(text).ok();
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}
