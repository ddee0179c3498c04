//! The guest's console as its user knows it: one, whatever devices make it up.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

/// The serial port, and a virtio console if the guest has one. What it writes to either is seen; what is
/// typed goes to the virtio console, or else to the serial port.
#[derive(Clone)]
pub struct GuestConsole {
    /// Those that are not typed into.
    others: Vec<vmm::Console>,
    typed_into: vmm::Console,
}

impl GuestConsole {
    /// The machine's.
    pub fn of(machine: &vmm::Vm) -> GuestConsole {
        let mut others = machine.virtio_consoles();
        let typed_into = match others.pop() {
            None => machine.console(),
            Some(last) => {
                others.push(machine.console());
                last
            }
        };
        GuestConsole { others, typed_into }
    }

    /// Sends what the guest writes to `sink`, which must not block.
    pub fn set_output(&self, sink: Box<dyn Write + Send>) {
        if self.others.is_empty() {
            return self.typed_into.set_output(sink);
        }
        let shared = Shared(Arc::new(Mutex::new(sink)));
        for console in self.others.iter().chain([&self.typed_into]) {
            console.set_output(Box::new(shared.clone()));
        }
    }

    /// Types into it. Returns how many bytes were taken.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.typed_into.write(bytes)
    }
}

/// A sink that several write to, each piece whole.
#[derive(Clone)]
struct Shared(Arc<Mutex<Box<dyn Write + Send>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
