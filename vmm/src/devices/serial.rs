//! The serial port, and the console on it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_superio::SerialState as UartState;
use vm_superio::serial::{NoEvents, Serial};

use super::bus::{Device, Outcome};
use super::interrupt::InterruptLine;
use super::virtio::console::ConsolePort;

/// COM1's ports.
pub(crate) const PORTS: Range<u64> = 0x3f8..0x400;
/// COM1's interrupt line.
pub(crate) const INTERRUPT_LINE: u32 = 4;
/// Most input bytes that wait for the guest to read: beyond, a writer is told that fewer were taken.
pub const MAX_WAITING_INPUT_BYTES: usize = 64 << 10;
/// The UART's own buffer (vm-superio's FIFO_SIZE).
const FIFO_BYTES: usize = 64;

/// The state of the serial port, unread input included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialState {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    fifo: Vec<u8>,
    waiting: Vec<u8>,
}

/// A state no serial port has.
#[derive(Debug, Error)]
#[error("the serial port's state holds {bytes} bytes of input, more than the limit of {limit}")]
pub struct SerialStateError {
    bytes: usize,
    limit: usize,
}

impl SerialState {
    /// Checks the limits.
    pub(crate) fn check(&self) -> Result<(), SerialStateError> {
        for (bytes, limit) in [(self.fifo.len(), FIFO_BYTES), (self.waiting.len(), MAX_WAITING_INPUT_BYTES)] {
            if bytes > limit {
                return Err(SerialStateError { bytes, limit });
            }
        }
        Ok(())
    }
}

/// COM1.
#[derive(Debug)]
pub(crate) struct SerialPort {
    line: InterruptLine,
    inner: Mutex<Inner>,
}

struct Inner {
    uart: Serial<InterruptLine, NoEvents, Output>,
    /// Input the UART has no room for yet.
    waiting: VecDeque<u8>,
    /// Not between a save or a restore and the next start: what came then would be lost.
    takes_input: bool,
}

/// Where output goes. Its failures are not the guest's business: a UART cannot fail.
struct Output(Box<dyn Write + Send>);

impl SerialPort {
    pub(crate) fn new(vm: Arc<VmFd>) -> SerialPort {
        let line = InterruptLine::new(vm, INTERRUPT_LINE);
        let uart = Serial::new(line.clone(), Output(Box::new(io::sink())));
        SerialPort { line, inner: Mutex::new(Inner { uart, waiting: VecDeque::new(), takes_input: true }) }
    }

    /// What is typed from here on is not part of this state, so nothing is taken until the machine runs.
    pub(crate) fn save(&self) -> SerialState {
        let mut inner = self.lock();
        inner.takes_input = false;
        let uart = inner.uart.state();
        SerialState {
            baud_divisor: [uart.baud_divisor_low, uart.baud_divisor_high],
            interrupt_enable: uart.interrupt_enable,
            interrupt_identification: uart.interrupt_identification,
            line_control: uart.line_control,
            line_status: uart.line_status,
            modem_control: uart.modem_control,
            modem_status: uart.modem_status,
            scratch: uart.scratch,
            fifo: uart.in_buffer,
            waiting: inner.waiting.iter().copied().collect(),
        }
    }

    /// Takes over a checked state; the output stays where it goes. May raise the interrupt that the state has pending.
    pub(crate) fn restore(&self, state: &SerialState) -> Result<(), SerialStateError> {
        state.check()?;
        let uart = UartState {
            baud_divisor_low: state.baud_divisor[0],
            baud_divisor_high: state.baud_divisor[1],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.fifo.clone(),
        };
        let mut inner = self.lock();
        let output = std::mem::replace(inner.uart.writer_mut(), Output(Box::new(io::sink())));
        let limit = SerialStateError { bytes: state.fifo.len(), limit: FIFO_BYTES };
        inner.uart = Serial::from_state(&uart, self.line.clone(), NoEvents, output).map_err(|_| limit)?;
        inner.waiting = state.waiting.iter().copied().collect();
        inner.takes_input = false;
        Ok(())
    }

    /// The machine runs.
    pub(crate) fn take_input(&self) {
        self.lock().takes_input = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a sink that panics takes its vCPU with it")
    }
}

impl Inner {
    /// Fills the UART's buffer from what waits.
    fn feed(&mut self) {
        let room = self.uart.fifo_capacity().min(self.waiting.len());
        if room == 0 {
            return;
        }
        let chunk: Vec<u8> = self.waiting.iter().take(room).copied().collect();
        // In loopback mode nothing is taken. A line that cannot be raised leaves the bytes in the buffer, where the
        // guest finds them by polling.
        if let Ok(taken) = self.uart.enqueue_raw_bytes(&chunk) {
            self.waiting.drain(..taken);
        } else {
            self.waiting.drain(..room);
        }
    }
}

impl Device for SerialPort {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let mut inner = self.lock();
        for byte in into {
            *byte = inner.uart.read(offset as u8);
        }
        if !inner.waiting.is_empty() {
            inner.feed();
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Outcome {
        let mut inner = self.lock();
        for byte in bytes {
            // Only raising the line can fail here, and a guest polls as well.
            let _ = inner.uart.write(offset as u8, *byte);
        }
        Outcome::Done
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whoever reads the console may be gone: see `Output`.
        self.0.write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().ok();
        Ok(())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// A handle on the guest's console, for any thread; clones share it.
#[derive(Clone, Debug)]
pub struct Console {
    port: Port,
}

/// Either kind of console.
#[derive(Clone, Debug)]
enum Port {
    Serial(Arc<SerialPort>),
    Virtio(Arc<ConsolePort>),
}

impl Console {
    pub(crate) fn new(port: Arc<SerialPort>) -> Console {
        Console { port: Port::Serial(port) }
    }

    pub(crate) fn of_virtio(port: Arc<ConsolePort>) -> Console {
        Console { port: Port::Virtio(port) }
    }

    /// Types `bytes` into the guest's console. Returns how many were taken: fewer than given once
    /// [`MAX_WAITING_INPUT_BYTES`] wait to be read, and none from when the machine's state was saved, or restored, until it
    /// runs: they would not be part of that state.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let port = match &self.port {
            Port::Serial(port) => port,
            Port::Virtio(port) => return port.write(bytes),
        };
        let mut inner = port.lock();
        if !inner.takes_input {
            return 0;
        }
        let taken = bytes.len().min(MAX_WAITING_INPUT_BYTES - inner.waiting.len());
        inner.waiting.extend(&bytes[..taken]);
        inner.feed();
        taken
    }

    /// Sends output to `sink` from here on; until first called it goes nowhere. The sink is written from the vCPU's thread,
    /// byte by byte, or from a virtio console's, so it must not block for long: while it does the machine cannot be
    /// paused. Its errors are ignored.
    pub fn set_output(&self, sink: Box<dyn Write + Send>) {
        match &self.port {
            Port::Serial(port) => port.lock().uart.writer_mut().0 = sink,
            Port::Virtio(port) => port.set_output(sink),
        }
    }
}
