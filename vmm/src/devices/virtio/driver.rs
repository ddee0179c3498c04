//! A driver for tests: sets a device up by its registers and works its queues in guest memory, as a guest would.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::function::Function;
use super::interrupt::Interrupt;
use super::registers::COMMON_FEATURES;
use super::transport::VirtioDevice;
use super::worker;
use crate::config::Backing;
use crate::devices::bus::Device;
use crate::memory::GuestMemory;

/// Far beyond what anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Where queue 0 lies; each has four pages: descriptors, available ring, used ring, and one to spare.
const QUEUES_AT: u64 = 0x10_0000;
const QUEUE_BYTES: u64 = 0x4000;

/// A device with its worker and its memory, and no machine around it.
pub(crate) struct Rig {
    pub(crate) device: Arc<VirtioDevice>,
    pub(crate) memory: Arc<GuestMemory>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    pub(super) fn new(function: impl FnOnce(Arc<EventFd>) -> Box<dyn Function>) -> Rig {
        Rig::with_memory(Arc::new(GuestMemory::new(16 << 20, Backing::Anonymous).expect("memory")), function)
    }

    pub(super) fn with_memory(
        memory: Arc<GuestMemory>,
        function: impl FnOnce(Arc<EventFd>) -> Box<dyn Function>,
    ) -> Rig {
        let control = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
        let function = function(Arc::clone(&control));
        let device = VirtioDevice::new(Arc::clone(&memory), Interrupt::new(None), control, function);
        let device = Arc::new(device.expect("a device"));
        let thread = worker::spawn(Arc::clone(&device), "test".to_owned()).expect("a thread");
        Rig { device, memory, thread: Some(thread) }
    }

    pub(crate) fn driver(&self, queues: usize) -> Driver {
        Driver::new(Arc::clone(&self.device) as _, Arc::clone(&self.memory), queues)
    }

    pub(crate) fn close(&self) {
        assert!(self.device.close(PATIENCE), "comes to rest");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        until("the worker can be told to leave", || self.device.leave());
        let ended = self.thread.take().expect("has not been joined").join();
        assert!(std::thread::panicking() || ended.is_ok(), "the worker panicked");
    }
}

/// One queue, as its driver has it.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

/// A driver. Its descriptors go round; there must not be more than [`QUEUE_SIZE`] in use.
pub(crate) struct Driver {
    device: Arc<dyn Device>,
    memory: Arc<GuestMemory>,
    sides: Vec<Side>,
    /// Queues of other drivers that lie before its own.
    before: usize,
}

impl Driver {
    /// Drives a device with `queues` queues.
    pub(crate) fn new(device: Arc<dyn Device>, memory: Arc<GuestMemory>, queues: usize) -> Driver {
        Driver { device, memory, sides: vec![Side::default(); queues], before: 0 }
    }

    /// Goes on with another device of the same state.
    pub(crate) fn on(&self, device: Arc<dyn Device>, memory: &Arc<GuestMemory>) -> Driver {
        Driver { device, memory: Arc::clone(memory), sides: self.sides.clone(), before: self.before }
    }

    /// Leaves room for the queues of others.
    pub(crate) fn behind(mut self, queues: usize) -> Driver {
        self.before = queues;
        self
    }

    /// Goes on with a device that used `used` chains of its first queue before.
    pub(crate) fn at_chain(mut self, used: u16) -> Driver {
        self.sides[0].next_used = used;
        self
    }

    pub(crate) fn read(&self, register: u64) -> u32 {
        let mut value = [0; 4];
        self.device.read(register, &mut value);
        u32::from_le_bytes(value)
    }

    pub(crate) fn write(&self, register: u64, value: u32) {
        self.device.write(register, &value.to_le_bytes());
    }

    /// Goes through 3.1.1 of the specification, taking the features of every device but `without`.
    pub(crate) fn set_up(&mut self, without: u64) {
        assert_eq!((self.read(0), self.read(4)), (0x7472_6976, 2));
        self.write(0x70, 0);
        self.write(0x70, 3);
        let features = COMMON_FEATURES & !without;
        for select in [0, 1] {
            self.write(0x14, select);
            let offered = self.read(0x10);
            let wanted = (features >> (32 * select)) as u32;
            assert_eq!(offered & wanted, wanted, "offered");
            self.write(0x24, select);
            self.write(0x20, wanted);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11, "features are agreed on");
        for queue in 0..self.sides.len() {
            self.sides[queue] = Side::default();
            self.write(0x30, queue as u32);
            assert!(self.read(0x34) >= u32::from(QUEUE_SIZE) && self.read(0x44) == 0);
            self.write(0x38, u32::from(QUEUE_SIZE));
            let [descriptors, available, used] = places(self.before + queue);
            self.memory.write(available, &[0; 64]).expect("in memory");
            self.memory.write(used, &[0; 256]).expect("in memory");
            for (register, place) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
                self.write(register, place as u32);
                self.write(register + 4, (place >> 32) as u32);
            }
            self.write(0x44, 1);
            assert_eq!(self.read(0x44), 1, "ready");
        }
        self.write(0x70, 15);
        assert_eq!(self.read(0x70), 15, "live");
    }

    /// Makes a chain of `parts`, each an address, a length and whether the device may write it, available.
    pub(crate) fn add(&mut self, queue: usize, parts: &[(u64, u32, bool)]) {
        let [descriptors, available, _] = places(self.before + queue);
        let side = &mut self.sides[queue];
        let head = side.next_descriptor % QUEUE_SIZE;
        for (index, (address, length, writes)) in parts.iter().enumerate() {
            let slot = (side.next_descriptor + index as u16) % QUEUE_SIZE;
            let goes_on = index + 1 < parts.len();
            let flags = u16::from(goes_on) | u16::from(*writes) << 1;
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&address.to_le_bytes());
            descriptor[8..12].copy_from_slice(&length.to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&((slot + 1) % QUEUE_SIZE).to_le_bytes());
            self.memory.write(descriptors + u64::from(slot) * 16, &descriptor).expect("in memory");
        }
        side.next_descriptor = side.next_descriptor.wrapping_add(parts.len() as u16);
        let place = available + 4 + u64::from(side.next_available % QUEUE_SIZE) * 2;
        self.memory.write(place, &head.to_le_bytes()).expect("in memory");
        side.next_available = side.next_available.wrapping_add(1);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.memory.write(available + 2, &side.next_available.to_le_bytes()).expect("in memory");
    }

    pub(crate) fn kick(&self, queue: usize) {
        self.write(0x50, queue as u32);
    }

    /// The bytes written into the next chain that came back, if one did.
    pub(crate) fn used(&mut self, queue: usize) -> Option<u32> {
        let [.., used] = places(self.before + queue);
        let side = &mut self.sides[queue];
        let mut index = [0; 2];
        self.memory.read(used + 2, &mut index).expect("in memory");
        if u16::from_le_bytes(index) == side.next_used {
            return None;
        }
        let mut length = [0; 4];
        let place = used + 4 + u64::from(side.next_used % QUEUE_SIZE) * 8 + 4;
        self.memory.read(place, &mut length).expect("in memory");
        side.next_used = side.next_used.wrapping_add(1);
        // Wants to be told of the next: `used_event`, behind the available ring.
        let [_, available, _] = places(self.before + queue);
        let wanted = side.next_used.to_le_bytes();
        self.memory.write(available + 4 + u64::from(QUEUE_SIZE) * 2, &wanted).expect("in memory");
        Some(u32::from_le_bytes(length))
    }

    /// Waits for the next chain to come back.
    pub(crate) fn wait_used(&mut self, queue: usize) -> u32 {
        let mut came = None;
        until("a chain comes back", || {
            came = self.used(queue);
            came.is_some()
        });
        came.expect("it came")
    }
}

/// Where a queue's descriptors, available ring and used ring are.
pub(crate) fn places(queue: usize) -> [u64; 3] {
    let start = QUEUES_AT + queue as u64 * QUEUE_BYTES;
    [start, start + 0x1000, start + 0x2000]
}

/// Waits until `what` is true.
pub(crate) fn until(name: &str, mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {name}");
        std::thread::sleep(Duration::from_micros(50));
    }
}
