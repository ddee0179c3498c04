//! Devices: what a guest finds at ports and addresses outside of its memory.
//!
//! - `bus`: which device an access is for;
//! - `serial`: the console;
//! - `exit_port`, `reset`, `power`, `panic_port`: how a guest ends;
//! - `virtio`: devices with queues in guest memory, each with a thread of its own.
//!
//! Devices raise interrupts by KVM_IRQ_LINE, not by an irqfd: an irqfd's interrupt may still be on its way in a kernel
//! queue when the machine is saved, and would be lost with it.

mod bus;
mod exit_port;
mod interrupt;
mod panic_port;
pub(crate) mod power;
mod reset;
pub(crate) mod serial;
pub(crate) mod virtio;

pub(crate) use self::bus::{Bus, Outcome};
pub(crate) use self::exit_port::ExitPort;
pub(crate) use self::panic_port::PanicPort;
pub(crate) use self::power::PowerRegisters;
pub(crate) use self::reset::KeyboardController;
pub use self::serial::Console;
