//! A driver that means harm, made of arbitrary bytes: for property tests and fuzz targets.
//!
//! It writes registers and guest memory as it likes, lays out queues that are sound but for what it gets wrong, and has
//! the device work. Whatever it does, the device must not panic, not work for ever, and write nothing outside of the
//! guest's memory.

use std::cell::OnceCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use vmm_sys_util::eventfd::EventFd;

use super::balloon::Balloon;
use super::block::{Block, Disk};
use super::console::ConsoleDevice;
use super::function::Function;
use super::interrupt::Interrupt;
use super::net::{MacAddress, Net, Tap};
use super::rng::Rng;
use super::state::{DeviceState, FunctionState};
use super::transport::{Turn, VirtioDevice};
use crate::config::Backing;
use crate::devices::bus::Device;
use crate::memory::GuestMemory;

/// All rings and buffers lie below, where a byte or two can name them.
const ARENA_BYTES: u64 = 0x2_0000;
const MEMORY_BYTES: u64 = 16 << 20;
/// Turns in a row that one kick may take: more chains than the largest ring holds.
const MAX_TURNS: usize = 64;

/// Bytes, taken one after the other; zeros at the end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Mostly small numbers, sometimes great ones.
    fn number(&mut self) -> u64 {
        match self.byte() {
            choice @ 0..=199 => u64::from(choice) << 8 | u64::from(self.byte()),
            200..=229 => u64::from(self.word()) << 16 | u64::from(self.word()),
            230..=239 => u64::MAX - u64::from(self.byte()),
            240..=247 => MEMORY_BYTES - u64::from(self.byte()),
            _ => 1 << (self.byte() % 64),
        }
    }
}

/// Lets `script` be the driver of a device with that `function`, whose outside world `outside` may stir.
fn drive(
    function: impl FnOnce(Arc<EventFd>) -> Box<dyn Function>,
    script: &[u8],
    mut outside: impl FnMut(u8),
) {
    let memory = Arc::new(GuestMemory::new(MEMORY_BYTES, Backing::Anonymous).expect("memory"));
    let control = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
    let function = function(Arc::clone(&control));
    let queues = function.queue_sizes().len();
    let device = VirtioDevice::new(Arc::clone(&memory), Interrupt::new(None), control, function);
    let device = device.expect("a device");
    device.open(true);
    let mut script = Script(script);
    if script.byte() & 3 != 0 {
        set_up(&device, queues, &mut script);
    }
    let mut available = vec![0u16; queues];
    while !script.0.is_empty() {
        match script.byte() % 8 {
            0 => {
                let (register, value) = (u64::from(script.byte()) * 4, script.number() as u32);
                device.write(register, &value.to_le_bytes());
            }
            1 => {
                let mut bytes = [0; 8];
                let length = usize::from(script.byte() % 9);
                device.read(u64::from(script.word() % 0x1000), &mut bytes[..length]);
                device.write(0x100 + u64::from(script.byte()), &bytes[..length]);
            }
            2 => {
                let (place, value) = (script.number() % ARENA_BYTES, script.word());
                memory.write(place, &value.to_le_bytes()).expect("in memory");
            }
            3..=5 => {
                let queue = usize::from(script.byte()) % queues;
                let descriptors = add_chain(&memory, queue, &mut script);
                make_available(&memory, queue, &mut available[queue], descriptors);
                work(&device);
            }
            6 => {
                outside(script.byte());
                work(&device);
            }
            _ => {
                // Pauses, and goes on with the state that was saved, or with what it was turned into.
                assert!(device.close(Duration::from_secs(10)), "nobody holds the lock");
                let state = device.save();
                assert_eq!(device.check(&state), Ok(()), "a saved state can be loaded");
                device.restore(&state);
                device.open(script.byte() & 1 == 0);
            }
        }
    }
    work(&device);
}

/// Where things lie: a queue has 0x2000 bytes from here on, its descriptors, available and used ring 0x800 each.
fn queue_at(queue: usize) -> u64 {
    0x1000 + queue as u64 * 0x2000
}

fn set_up(device: &VirtioDevice, queues: usize, script: &mut Script<'_>) {
    let write = |register: u64, value: u32| {
        device.write(register, &value.to_le_bytes());
    };
    write(0x70, 3);
    let mut features = [0; 4];
    for select in [0u32, 1] {
        write(0x14, select);
        device.read(0x10, &mut features);
        write(0x24, select);
        let without = if select == 0 { u32::from(script.word()) << 16 } else { 0 };
        write(0x20, u32::from_le_bytes(features) & !without);
    }
    write(0x70, 11);
    for queue in 0..queues {
        write(0x30, queue as u32);
        write(0x38, 1 << (script.byte() % 8));
        let start = queue_at(queue);
        for (register, place) in [(0x80, start), (0x90, start + 0x800), (0xa0, start + 0x1000)] {
            write(register, place as u32);
        }
        write(0x44, 1);
    }
    write(0x70, 15);
}

/// Writes some descriptors, sound or not, and returns the first one's number.
fn add_chain(memory: &GuestMemory, queue: usize, script: &mut Script<'_>) -> u16 {
    let shape = script.byte();
    let count = u16::from(shape % 5) + 1;
    let first = u16::from(script.byte() % 64);
    for index in 0..count {
        let (address, length, kind) = (script.number(), script.number() as u32, script.byte());
        let last = index + 1 == count;
        let next = if kind & 0x40 != 0 { u16::from(script.byte()) } else { first + index + 1 };
        // Writable, or not, or a table of its own; goes on, as it should or as it likes.
        let writes = u16::from(shape & 0x80 != 0 || kind & 1 != 0) << 1;
        let indirect = u16::from(kind & 0x38 == 0x38) << 2;
        let goes_on = u16::from(!last ^ (kind & 0x86 == 0x86));
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&(writes | indirect | goes_on).to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        let place = queue_at(queue) + u64::from(first + index) * 16;
        memory.write(place, &descriptor).expect("in memory");
    }
    first
}

fn make_available(memory: &GuestMemory, queue: usize, index: &mut u16, head: u16) {
    let ring = queue_at(queue) + 0x800;
    // Of a ring of unknown size every place that may be the next one.
    for size in (0..8).map(|power| 1u16 << power) {
        let place = ring + 4 + u64::from(*index % size) * 2;
        memory.write(place, &head.to_le_bytes()).expect("in memory");
    }
    *index = index.wrapping_add(1);
    memory.write(ring + 2, &index.to_le_bytes()).expect("in memory");
}

/// Has the device work until it wants to wait.
fn work(device: &VirtioDevice) {
    for _ in 0..MAX_TURNS {
        if device.turn() != Turn::Again {
            return;
        }
    }
    panic!("the device works for ever");
}

/// A network card's hostile driver.
pub(crate) fn net(script: &[u8]) {
    let (inside, outside) = UnixDatagram::pair().expect("a pair");
    outside.set_nonblocking(true).expect("a socket can be non-blocking");
    let port = OnceCell::new();
    let make = |control| {
        let (net, its_port) = Net::new(Tap::of_socket(inside), MacAddress([2, 0, 0, 0, 0, 1]), control);
        port.set(its_port).expect("made once");
        Box::new(net) as Box<dyn Function>
    };
    let frame = [7; 256];
    let mut buffer = [0; 4096];
    drive(make, script, |how| {
        // What the guest sent is taken away, or its tap would refuse more.
        while outside.recv(&mut buffer).is_ok() {}
        let frame = &frame[..usize::from(how)];
        let port = port.get().expect("made before");
        match how % 4 {
            0 => drop(port.inject(frame)),
            1 => drop(port.announce()),
            _ => drop(outside.send(frame)),
        }
    });
}

/// A state that came from anywhere, loaded into a device of its kind if that takes it. Returns whether it did.
pub(crate) fn load(state: &DeviceState) -> bool {
    let (_outside, inside) = UnixDatagram::pair().expect("a pair");
    let device = device_for(&state.function, inside);
    if device.check(state).is_err() {
        return false;
    }
    device.restore(state);
    assert_eq!(&device.save(), state, "what was loaded is saved");
    device.open(true);
    work(&device);
    true
}

/// What a device of each kind saves before its driver has come.
#[cfg(test)]
pub(crate) fn saved() -> [DeviceState; 5] {
    [
        FunctionState::Net(Default::default()),
        FunctionState::Rng,
        FunctionState::Block,
        FunctionState::Console(Default::default()),
        FunctionState::Balloon(Default::default()),
    ]
    .map(|function| {
        let (_outside, inside) = UnixDatagram::pair().expect("a pair");
        let device = device_for(&function, inside);
        assert!(device.close(Duration::from_secs(10)), "nobody holds the lock");
        device.save()
    })
}

fn device_for(function: &FunctionState, tap: UnixDatagram) -> VirtioDevice {
    let memory = Arc::new(GuestMemory::new(MEMORY_BYTES, Backing::Anonymous).expect("memory"));
    let control = Arc::new(EventFd::new(libc::EFD_NONBLOCK).expect("an eventfd"));
    let function: Box<dyn Function> = match function {
        FunctionState::Net(_) => {
            let mac = MacAddress([2, 0, 0, 0, 0, 1]);
            Box::new(Net::new(Tap::of_socket(tap), mac, Arc::clone(&control)).0)
        }
        FunctionState::Rng => Box::new(Rng),
        FunctionState::Block => Box::new(Block::new(disk().1).0),
        FunctionState::Console(_) => Box::new(ConsoleDevice::new(Arc::clone(&control)).0),
        FunctionState::Balloon(_) => Box::new(Balloon::new(Arc::clone(&control)).0),
    };
    VirtioDevice::new(memory, Interrupt::new(None), control, function).expect("a device")
}

/// A disk's hostile driver.
pub(crate) fn block(script: &[u8]) {
    let (file, disk) = disk();
    let bytes = disk.bytes();
    drive(|_| Box::new(Block::new(disk).0), script, |_| {});
    assert_eq!(file.metadata().expect("can be asked").len(), bytes, "the file's size stays");
}

/// A console's hostile driver.
pub(crate) fn console(script: &[u8]) {
    let port = OnceCell::new();
    let make = |control| {
        let (console, its_port) = ConsoleDevice::new(control);
        port.set(its_port).expect("made once");
        Box::new(console) as Box<dyn Function>
    };
    drive(make, script, |how| {
        port.get().expect("made before").write(&[how; 256][..usize::from(how)]);
    });
}

/// A balloon's hostile driver.
pub(crate) fn balloon(script: &[u8]) {
    let port = OnceCell::new();
    let make = |control| {
        let (balloon, its_port) = Balloon::new(control);
        port.set(its_port).expect("made once");
        Box::new(balloon) as Box<dyn Function>
    };
    drive(make, script, |how| port.get().expect("made before").set_target_pages(u32::from(how)));
}

/// A disk of 64 KiB without a name.
fn disk() -> (File, Disk) {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(64 << 10).expect("grows");
    let path = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
    let disk = Disk::new(&path, false).expect("a disk");
    (file, disk)
}

/// A source of random bytes' hostile driver.
pub(crate) fn rng(script: &[u8]) {
    drive(|_| Box::new(Rng), script, |_| {});
}
