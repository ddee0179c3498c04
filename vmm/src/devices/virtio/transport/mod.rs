//! The life of a device.
//!
//! ```text
//!            open               first turn
//!   closed ────────► open, fresh ──────────► open: a turn for each kick, frame or order
//!     ▲                   │                   │
//!     └───────────────────┴────── close ──────┘            any ── leave ──► left
//! ```

mod mmio;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::function::{Function, Next, Work};
use crate::devices::virtio::interrupt::Interrupt;
use crate::devices::virtio::queue::{Broken, QueueRegisters, VirtQueue};
use crate::devices::virtio::registers::{COMMON_FEATURES, Registers};
use crate::devices::virtio::state::{DeviceState, FunctionStateError, TransportState};
use crate::memory::GuestMemory;

/// Whether the device works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// The machine stands still.
    Closed,
    /// The machine runs; `fresh` until the worker has had its first turn since.
    Open { fresh: bool },
    /// The machine is gone, and the thread is to end.
    Left,
}

/// What the lock guards.
#[derive(Debug)]
struct Core {
    gate: Gate,
    registers: Registers,
    queues: Vec<VirtQueue>,
    function: Box<dyn Function>,
    /// It was said that the driver broke the rules.
    complained: bool,
}

/// What the worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::devices::virtio) enum Turn {
    /// Take another turn.
    Again,
    /// Wait for `control`, and for the others if they are named.
    Wait { kick: bool, source: bool },
    /// End.
    Leave,
}

/// A virtio device. Its registers are used by vCPUs, its life is led by the machine's owner, its queues are worked off by
/// its worker.
#[derive(Debug)]
pub(crate) struct VirtioDevice {
    memory: Arc<GuestMemory>,
    interrupt: Interrupt,
    /// Written by KVM when the driver notifies.
    kick: EventFd,
    /// Written when the worker is to look up from whatever it waits for.
    control: Arc<EventFd>,
    hurry: AtomicBool,
    core: Mutex<Core>,
}

impl VirtioDevice {
    pub(in crate::devices::virtio) fn new(
        memory: Arc<GuestMemory>,
        interrupt: Interrupt,
        control: Arc<EventFd>,
        function: Box<dyn Function>,
    ) -> std::io::Result<VirtioDevice> {
        let queues = function.queue_sizes().iter().map(|size| VirtQueue::new(*size)).collect();
        let core =
            Core { gate: Gate::Closed, registers: Registers::default(), queues, function, complained: false };
        Ok(VirtioDevice {
            memory,
            interrupt,
            kick: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            control,
            hurry: AtomicBool::new(true),
            core: Mutex::new(core),
        })
    }

    /// To be written when the driver notifies.
    pub(in crate::devices::virtio) fn kick(&self) -> &EventFd {
        &self.kick
    }

    pub(in crate::devices::virtio) fn control(&self) -> &EventFd {
        &self.control
    }

    /// Lets the device work: the machine runs. `first` if it never ran here.
    pub(in crate::devices::virtio) fn open(&self, first: bool) {
        let mut core = self.lock();
        core.gate = Gate::Open { fresh: true };
        core.function.started(first);
        self.hurry.store(false, Ordering::SeqCst);
        drop(core);
        self.wake();
    }

    /// Stops the device: afterwards it touches neither guest memory nor the outside world, and has left nothing undone
    /// that it began. Returns whether it did within `patience`; if not it works on.
    pub(in crate::devices::virtio) fn close(&self, patience: Duration) -> bool {
        /// A worker in the middle of a frame is done within this.
        const LOOK_FOR: Duration = Duration::from_micros(100);
        self.hurry.store(true, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            match self.core.try_lock() {
                Ok(mut core) => {
                    core.gate = Gate::Closed;
                    core.function.stopped();
                    return true;
                }
                Err(TryLockError::Poisoned(_)) => panic!("a device's worker does not panic"),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOOK_FOR => std::hint::spin_loop(),
                Err(TryLockError::WouldBlock) if start.elapsed() < patience => {
                    std::thread::sleep(LOOK_FOR);
                }
                Err(TryLockError::WouldBlock) => {
                    self.hurry.store(false, Ordering::SeqCst);
                    self.wake();
                    return false;
                }
            }
        }
    }

    /// Tells the worker to end. It may wait for a missing page, with the lock held, so this does not wait for the lock.
    pub(in crate::devices::virtio) fn leave(&self) -> bool {
        self.hurry.store(true, Ordering::SeqCst);
        let Ok(mut core) = self.core.try_lock() else { return false };
        core.gate = Gate::Left;
        core.function.stopped();
        drop(core);
        self.wake();
        true
    }

    pub(in crate::devices::virtio) fn save(&self) -> DeviceState {
        let core = self.lock();
        let transport = TransportState {
            registers: core.registers,
            interrupt_status: self.interrupt.status(),
            queues: core.queues.iter().map(VirtQueue::save).collect(),
        };
        DeviceState { transport, function: core.function.save() }
    }

    /// Whether a state can be this device's. Touches no guest memory.
    pub(in crate::devices::virtio) fn check(&self, state: &DeviceState) -> Result<(), FunctionStateError> {
        let core = self.lock();
        let TransportState { registers, interrupt_status, queues } = &state.transport;
        let impossible = |what| Err(FunctionStateError::Impossible { what });
        if !registers.is_possible(core.offered()) {
            return impossible("features or a status that this device does not have");
        }
        if interrupt_status & !Interrupt::BITS != 0 {
            return impossible("an interrupt that no device raises");
        }
        if queues.len() != core.queues.len() {
            return impossible("another number of queues");
        }
        let fit = |(queue, saved): (&VirtQueue, &QueueRegisters)| {
            queue.fits(saved, registers.event_idx(), &self.memory)
        };
        if !core.queues.iter().zip(queues).all(fit) {
            return impossible("a queue of impossible size or place");
        }
        core.function.check(&state.function)
    }

    /// Takes over a checked state. Touches no guest memory.
    pub(in crate::devices::virtio) fn restore(&self, state: &DeviceState) {
        let mut core = self.lock();
        let TransportState { registers, interrupt_status, queues } = &state.transport;
        core.registers = *registers;
        for (queue, saved) in core.queues.iter_mut().zip(queues) {
            queue.restore(saved, registers.event_idx(), &self.memory);
        }
        self.interrupt.set_status(*interrupt_status);
        core.function.restore(&state.function);
    }

    /// Calls `with` for the guest-physical address of each ring in use.
    pub(in crate::devices::virtio) fn rings(&self, with: impl FnMut(u64)) {
        self.lock().queues.iter().flat_map(VirtQueue::rings).for_each(with);
    }

    /// The worker's turn: does what there is to do, if the gate is open.
    pub(in crate::devices::virtio) fn turn(&self) -> Turn {
        let closed = Turn::Wait { kick: false, source: false };
        let mut core = self.lock();
        match core.gate {
            Gate::Left => return Turn::Leave,
            Gate::Closed => return closed,
            // Who hurries waits for the lock, and wakes the worker afterwards.
            Gate::Open { .. } if self.hurry.load(Ordering::SeqCst) => return closed,
            Gate::Open { fresh } => {
                core.gate = Gate::Open { fresh: false };
                if fresh {
                    // Whatever became of the interrupt before the state was saved: a driver takes one too many.
                    self.interrupt.raise_again();
                }
            }
        }
        if !core.registers.is_live() {
            return Turn::Wait { kick: true, source: false };
        }
        let Core { queues, function, .. } = &mut *core;
        let work = Work { memory: &self.memory, interrupt: &self.interrupt, hurry: &self.hurry };
        match function.work(queues, work) {
            Ok(Next::Again) => Turn::Again,
            Ok(Next::Wait { source }) => Turn::Wait { kick: true, source },
            Err(broken) => {
                self.break_down(&mut core, broken);
                Turn::Wait { kick: true, source: false }
            }
        }
    }

    /// What the worker waits for beside kicks.
    pub(in crate::devices::virtio) fn source(&self) -> Option<OwnedFd> {
        self.lock().function.source().and_then(|source| source.try_clone_to_owned().ok())
    }

    /// Says whether the worker is to go ahead of others, if that is ever wanted of it.
    pub(in crate::devices::virtio) fn precedence(&self) -> Option<Arc<AtomicBool>> {
        self.lock().function.precedence()
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the worker is awake.
        let _ = self.control.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("a device's worker does not panic")
    }

    fn break_down(&self, core: &mut Core, Broken(why): Broken) {
        // Once: a guest must not fill the host's log.
        if !std::mem::replace(&mut core.complained, true) {
            tracing::warn!(device = core.function.device_id(), why, "a virtio driver broke the rules");
        }
        core.registers.set_needs_reset();
        self.interrupt.changed();
    }
}

impl Core {
    fn offered(&self) -> u64 {
        self.function.features() | COMMON_FEATURES
    }

    /// The selected queue, if there is one.
    fn queue(&mut self) -> Option<&mut VirtQueue> {
        self.queues.get_mut(self.registers.queue_select as usize)
    }
}
