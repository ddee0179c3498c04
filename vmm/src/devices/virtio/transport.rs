//! A device as the bus sees it (virtio over MMIO, version 2), and its life.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as reg;
use vmm_sys_util::eventfd::EventFd;

use super::WINDOW_BYTES;
use super::function::{Function, Next, Work};
use super::interrupt::Interrupt;
use super::queue::{Broken, QueueRegisters, VirtQueue};
use super::registers::{COMMON_FEATURES, Registers};
use super::state::{DeviceState, FunctionStateError, TransportState};
use crate::devices::bus::{Device, Outcome};
use crate::memory::GuestMemory;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "FRRY".
const VENDOR: u32 = 0x5952_5246;
/// The registers of shared memory regions read as all ones: there are none (4.2.2).
const NO_SHARED_MEMORY: std::ops::RangeInclusive<u32> = 0xb0..=0xbc;

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
}

/// What the worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
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
    pub(super) fn new(
        memory: Arc<GuestMemory>,
        interrupt: Interrupt,
        control: Arc<EventFd>,
        function: Box<dyn Function>,
    ) -> std::io::Result<VirtioDevice> {
        let queues = function.queue_sizes().iter().map(|size| VirtQueue::new(*size)).collect();
        let core = Core { gate: Gate::Closed, registers: Registers::default(), queues, function };
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
    pub(super) fn kick(&self) -> &EventFd {
        &self.kick
    }

    pub(super) fn control(&self) -> &EventFd {
        &self.control
    }

    /// Lets the device work: the machine runs. `first` if it never ran here.
    pub(super) fn open(&self, first: bool) {
        let mut core = self.lock();
        core.gate = Gate::Open { fresh: true };
        core.function.started(first);
        self.hurry.store(false, Ordering::SeqCst);
        drop(core);
        self.wake();
    }

    /// Stops the device: afterwards it touches neither guest memory nor the outside world, and has left nothing undone
    /// that it began. Returns whether it did within `patience`; if not it works on.
    pub(super) fn close(&self, patience: Duration) -> bool {
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
    pub(super) fn leave(&self) -> bool {
        self.hurry.store(true, Ordering::SeqCst);
        let Ok(mut core) = self.core.try_lock() else { return false };
        core.gate = Gate::Left;
        core.function.stopped();
        drop(core);
        self.wake();
        true
    }

    pub(super) fn save(&self) -> DeviceState {
        let core = self.lock();
        let transport = TransportState {
            registers: core.registers,
            interrupt_status: self.interrupt.status(),
            queues: core.queues.iter().map(VirtQueue::save).collect(),
        };
        DeviceState { transport, function: core.function.save() }
    }

    /// Whether a state can be this device's. Touches no guest memory.
    pub(super) fn check(&self, state: &DeviceState) -> Result<(), FunctionStateError> {
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
    pub(super) fn restore(&self, state: &DeviceState) {
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
    pub(super) fn rings(&self, with: impl FnMut(u64)) {
        self.lock().queues.iter().flat_map(VirtQueue::rings).for_each(with);
    }

    /// The worker's turn: does what there is to do, if the gate is open.
    pub(super) fn turn(&self) -> Turn {
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
    pub(super) fn source(&self) -> Option<OwnedFd> {
        self.lock().function.source().and_then(|source| source.try_clone_to_owned().ok())
    }

    fn wake(&self) {
        // Fails only when the counter is full, and then the worker is awake.
        let _ = self.control.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("a device's worker does not panic")
    }

    fn break_down(&self, core: &mut Core, Broken(why): Broken) {
        tracing::warn!(device = core.function.device_id(), why, "a virtio driver broke the rules");
        core.registers.set_needs_reset();
        self.interrupt.changed();
    }

    fn read_register(&self, register: u32) -> u32 {
        // Neither needs the lock, which the worker may hold for a while.
        match register {
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => return self.interrupt.status(),
            reg::VIRTIO_MMIO_MAGIC_VALUE => return MAGIC,
            reg::VIRTIO_MMIO_VERSION => return VERSION,
            reg::VIRTIO_MMIO_VENDOR_ID => return VENDOR,
            _ => {}
        }
        let mut core = self.lock();
        match register {
            reg::VIRTIO_MMIO_DEVICE_ID => core.function.device_id(),
            reg::VIRTIO_MMIO_DEVICE_FEATURES => core.registers.selected_features(core.offered()),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => core.queue().map_or(0, |queue| u32::from(queue.max_size())),
            reg::VIRTIO_MMIO_QUEUE_READY => core.queue().map_or(0, |queue| u32::from(queue.is_ready())),
            reg::VIRTIO_MMIO_STATUS => core.registers.status,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => core.registers.config_generation,
            register if NO_SHARED_MEMORY.contains(&register) => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, register: u32, value: u32) {
        match register {
            reg::VIRTIO_MMIO_INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            // Only where KVM does not catch it first.
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                let _ = self.kick.write(1);
                return;
            }
            _ => {}
        }
        let mut core = self.lock();
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => core.registers.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => core.registers.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => core.registers.take_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => core.registers.queue_select = value,
            reg::VIRTIO_MMIO_QUEUE_READY => self.write_queue_ready(&mut core, value),
            reg::VIRTIO_MMIO_STATUS if value == 0 => {
                core.registers.reset();
                core.queues.iter_mut().for_each(VirtQueue::reset);
                core.function.reset();
                self.interrupt.set_status(0);
            }
            reg::VIRTIO_MMIO_STATUS => {
                let (before, offered) = (core.registers.is_live(), core.offered());
                core.registers.add_status(value, offered);
                if core.registers.is_live() != before {
                    self.wake();
                }
            }
            _ => core.write_queue_register(register, value),
        }
    }

    fn write_queue_ready(&self, core: &mut Core, value: u32) {
        let (agreed, event_idx) = (core.registers.features_agreed(), core.registers.event_idx());
        let Some(queue) = core.queue() else { return };
        if value & 1 == 0 {
            queue.reset();
        } else if agreed
            && !queue.is_ready()
            && let Err(broken) = queue.make_ready(&self.memory, event_idx)
        {
            self.break_down(core, broken);
        }
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

    fn write_queue_register(&mut self, register: u32, value: u32) {
        let Some(registers) = self.queue().and_then(VirtQueue::registers_mut) else { return };
        let low = |to: &mut u64| *to = *to & !0xffff_ffff | u64::from(value);
        let high = |to: &mut u64| *to = *to & 0xffff_ffff | u64::from(value) << 32;
        match register {
            // What does not fit is no power of two either.
            reg::VIRTIO_MMIO_QUEUE_NUM => registers.size = u16::try_from(value).unwrap_or(u16::MAX),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut registers.descriptors),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut registers.descriptors),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut registers.available),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut registers.available),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut registers.used),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut registers.used),
            _ => {}
        }
    }
}

impl Device for VirtioDevice {
    fn read(&self, offset: u64, into: &mut [u8]) {
        debug_assert!(offset < WINDOW_BYTES);
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            return self.lock().function.read_config(offset, into);
        }
        into.fill(0);
        // Registers are read by aligned words and in no other way (4.2.2.2).
        if offset.is_multiple_of(4)
            && let Ok(into) = <&mut [u8; 4]>::try_from(into)
        {
            *into = self.read_register(offset as u32).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Outcome {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            self.lock().function.write_config(offset, bytes);
        } else if offset.is_multiple_of(4)
            && let Ok(bytes) = <[u8; 4]>::try_from(bytes)
        {
            self.write_register(offset as u32, u32::from_le_bytes(bytes));
        }
        Outcome::Done
    }
}
