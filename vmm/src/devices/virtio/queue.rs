//! One queue: virtio-queue's, with what a hostile driver can do to it turned into one error.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GuestMemory, Regions};

/// The driver broke the rules so that the device cannot go on: it needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// What a driver says of a queue, and where the device is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueRegisters {
    pub(crate) size: u16,
    pub(crate) ready: bool,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) next_available: u16,
    pub(crate) next_used: u16,
}

/// A queue. While it is not ready, its registers are only remembered.
#[derive(Debug)]
pub(super) struct VirtQueue {
    registers: QueueRegisters,
    queue: Queue,
}

impl VirtQueue {
    /// A queue of at most `max_size` places, a power of two.
    pub(super) fn new(max_size: u16) -> VirtQueue {
        let queue = Queue::new(max_size).expect("sizes of queues are powers of two");
        VirtQueue { registers: QueueRegisters { size: max_size, ..QueueRegisters::default() }, queue }
    }

    pub(super) fn max_size(&self) -> u16 {
        self.queue.max_size()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.registers.ready
    }

    /// What the driver wrote; to be changed only while the queue is not ready.
    pub(super) fn registers_mut(&mut self) -> Option<&mut QueueRegisters> {
        (!self.registers.ready).then_some(&mut self.registers)
    }

    /// Takes the queue into use.
    pub(super) fn make_ready(&mut self, memory: &GuestMemory, event_idx: bool) -> Result<(), Broken> {
        let registers = QueueRegisters { ready: true, next_available: 0, next_used: 0, ..self.registers };
        self.queue = build(&registers, self.queue.max_size(), event_idx, memory)
            .ok_or(Broken("a queue of impossible size or place"))?;
        self.registers = registers;
        Ok(())
    }

    pub(super) fn reset(&mut self) {
        *self = VirtQueue::new(self.queue.max_size());
    }

    pub(super) fn save(&self) -> QueueRegisters {
        if !self.registers.ready {
            return self.registers;
        }
        QueueRegisters {
            next_available: self.queue.next_avail(),
            next_used: self.queue.next_used(),
            ..self.registers
        }
    }

    /// Whether a saved queue can be this one. Touches no guest memory.
    pub(super) fn fits(&self, saved: &QueueRegisters, event_idx: bool, memory: &GuestMemory) -> bool {
        !saved.ready || build(saved, self.max_size(), event_idx, memory).is_some()
    }

    /// Takes over a saved queue that [`fits`](Self::fits).
    pub(super) fn restore(&mut self, saved: &QueueRegisters, event_idx: bool, memory: &GuestMemory) {
        self.reset();
        if saved.ready
            && let Some(queue) = build(saved, self.max_size(), event_idx, memory)
        {
            self.queue = queue;
        }
        self.registers = *saved;
    }

    /// Takes the next chain.
    pub(super) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
    ) -> Result<Option<DescriptorChain<&'m Regions>>, Broken> {
        let mut chains =
            self.queue.iter(memory.regions()).map_err(|_| Broken("an impossible available index"))?;
        Ok(chains.next())
    }

    /// Gives back the chain taken last, untouched.
    pub(super) fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives the driver a chain back, with `written` bytes of it filled.
    pub(super) fn push_used(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.queue
            .add_used(memory.regions(), head, written)
            .map_err(|_| Broken("a chain that starts beyond the descriptor table"))
    }

    /// Asks the driver for no kicks.
    pub(super) fn silence(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        self.queue.disable_notification(memory.regions()).map_err(|_| Broken("an unwritable used ring"))
    }

    /// Asks the driver for a kick with its next chain. Returns whether there is one already.
    pub(super) fn listen(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        self.queue.enable_notification(memory.regions()).map_err(|_| Broken("an unwritable used ring"))
    }

    /// Whether the driver wants to be interrupted for the chains given back since this was last asked.
    pub(super) fn wants_interrupt(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let unreadable = Broken("an unreadable available ring");
        let wants = self.queue.needs_notification(memory.regions()).map_err(|_| unreadable)?;
        if self.queue.event_idx_enabled() {
            return Ok(wants);
        }
        let place = GuestAddress(self.queue.avail_ring());
        let flags: u16 = memory.regions().load(place, Ordering::Relaxed).map_err(|_| unreadable)?;
        Ok(wants && u16::from_le(flags) & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
    }

    /// Guest-physical addresses of its rings, while it is ready.
    pub(super) fn rings(&self) -> impl Iterator<Item = u64> {
        let QueueRegisters { descriptors, available, used, ready, .. } = self.registers;
        [descriptors, available, used].into_iter().filter(move |_| ready)
    }
}

/// A ready queue, or nothing if the registers make none that lies in memory.
fn build(registers: &QueueRegisters, max_size: u16, event_idx: bool, memory: &GuestMemory) -> Option<Queue> {
    let state = QueueState {
        max_size,
        next_avail: registers.next_available,
        next_used: registers.next_used,
        event_idx_enabled: event_idx,
        size: registers.size,
        ready: registers.ready,
        desc_table: registers.descriptors,
        avail_ring: registers.available,
        used_ring: registers.used,
    };
    Queue::try_from(state).ok().filter(|queue| queue.is_valid(memory.regions()))
}
