//! virtio devices over MMIO (Virtual I/O Device version 1.2, 4.2; modern only).
//!
//! ```text
//!            registers                    kick (ioeventfd)
//!  vCPU ────────────────► transport   ──────────────────────► worker: one thread a device
//!                             │  one lock: registers, queues,      │ takes the lock, works, lets go
//!  owner ── open / close ────►│  function, gate                    │ waits for kick, control, source
//!                             └────────────────────────────────────┘
//! ```
//! - `transport`: registers, and the life of a device: opened while the machine runs, closed while it stands still;
//! - `registers`: what a driver writes before it may use a queue;
//! - `queue`, `chain`: virtio-queue, with hostile drivers in mind;
//! - `function`: what differs between kinds of devices; `net`, `rng`, `block`, `console` and `balloon` are such;
//! - `backend`: what each kind needs of the host; `set`: all devices of a machine;
//! - `worker`: the thread; `interrupt`: the line;
//! - `state`: what is saved.
//!
//! **Standing still.** The worker touches guest memory and the outside world only while it holds the lock with the gate
//! open, and finishes each frame or request that it took from a queue before it lets go. So closing the gate under the
//! lock *is* the drain, and costs no handshake. What the guest queued and nobody took stays in the queue, in guest memory.
//!
//! **Missing pages.** A worker may wait for one, with the lock held; then so does who wants the lock. Saving, loading and
//! checking a state touch no guest memory: addresses are only compared with bounds.
//!
//! **Interrupts** go by KVM_IRQ_LINE, like those of the other devices, and not by an irqfd: for the pins of an I/O APIC
//! that one hands the interrupt to a kernel work queue, where it may still be when the machine is saved. They are edges:
//! a driver acknowledges before it looks at its queues, so none is lost.

pub(crate) mod backend;
pub(crate) mod balloon;
pub(crate) mod block;
mod chain;
pub(crate) mod console;
mod function;
mod interrupt;
pub(crate) mod net;
mod precedence;
mod queue;
mod registers;
mod rng;
mod set;
pub(crate) mod state;
mod transport;
mod worker;

#[cfg(test)]
pub(crate) mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;

pub(crate) use self::set::Devices;

/// Most devices of a machine: so many pins has the I/O APIC beyond those of the ISA bus.
pub const MAX_DEVICES: usize = 8;
/// Guest-physical address of the first device's window.
pub(crate) const FIRST_WINDOW: u64 = 0xd000_0000;
/// Bytes of a device's window.
pub(crate) const WINDOW_BYTES: u64 = 0x1000;
/// Interrupt line (GSI, pin of the I/O APIC; edge-triggered) of the first device.
pub(crate) const FIRST_LINE: u32 = 16;

/// Guest-physical address of device `index`'s window of [`WINDOW_BYTES`].
pub(crate) const fn window_of(index: usize) -> u64 {
    FIRST_WINDOW + index as u64 * WINDOW_BYTES
}

/// Interrupt line of device `index`.
pub(crate) const fn line_of(index: usize) -> u32 {
    FIRST_LINE + index as u32
}

/// What a Linux kernel must be told of `devices` devices on its command line, where it has no other way to find them
/// (Documentation/admin-guide/kernel-parameters.txt, `virtio_mmio.device=`).
pub(crate) fn command_line(devices: usize) -> String {
    (0..devices)
        .map(|index| format!(" virtio_mmio.device=4K@{:#x}:{}", window_of(index), line_of(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_guests_are_told() {
        assert_eq!(
            command_line(2),
            " virtio_mmio.device=4K@0xd0000000:16 virtio_mmio.device=4K@0xd0001000:17"
        );
        assert_eq!(line_of(MAX_DEVICES - 1), 23, "the last pin of the I/O APIC");
        assert!(window_of(0) >= crate::memory::LOW_MEMORY_END);
    }
}
