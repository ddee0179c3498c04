//! A device's interrupt: why, and the line.

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vm_superio::Trigger;

use crate::devices::interrupt::InterruptLine;

/// Interrupt status register and line. Without lock: a driver reads and acknowledges while the worker works.
#[derive(Debug)]
pub(super) struct Interrupt {
    status: AtomicU32,
    /// `None` where there is no guest, as in tests.
    line: Option<InterruptLine>,
}

impl Interrupt {
    /// All reasons to interrupt.
    pub(super) const BITS: u32 = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;

    pub(super) fn new(line: Option<InterruptLine>) -> Interrupt {
        Interrupt { status: AtomicU32::new(0), line }
    }

    /// The device used buffers.
    pub(super) fn used_buffers(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The device's configuration or status changed.
    pub(super) fn changed(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Raises the line anew if something is not yet acknowledged.
    pub(super) fn raise_again(&self) {
        if self.status() != 0 {
            self.edge();
        }
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn set_status(&self, status: u32) {
        self.status.store(status & Interrupt::BITS, Ordering::SeqCst);
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    fn raise(&self, why: u32) {
        // The status before the edge: the handler looks at it.
        self.status.fetch_or(why, Ordering::SeqCst);
        self.edge();
    }

    fn edge(&self) {
        if let Some(line) = &self.line
            && let Err(error) = line.trigger()
        {
            // KVM takes an edge on a pin that exists.
            tracing::error!(%error, "raise a virtio device's interrupt");
        }
    }
}
