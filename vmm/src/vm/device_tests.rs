//! Devices in a whole machine: their life follows the machine's, their state is part of its state. The guest only counts;
//! its devices are driven from outside, as its driver would.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{RestoreError, Vm};
use crate::devices::virtio::backend::{Backend, DeviceCreateError};
use crate::devices::virtio::driver::{Driver, PATIENCE, places, until};
use crate::{
    Backing, CpuModel, CreateError, DeviceConfig, Disk, DiskError, MacAddress, MissingPages, NetPort, Tap,
    VmConfig, probe,
};

#[path = "../../tests/common/elf.rs"]
mod elf;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const BUFFER: u64 = 0x30_0000;
/// Counts at 2 MiB for ever.
const COUNT: &[u8] = &[0xb9, 0, 0, 0x20, 0, 0xff, 0x01, 0xeb, 0xfc];

fn has_kvm(test: &str) -> bool {
    probe().kvm.map_err(|reason| println!("skipped: {test}: {reason}")).is_ok()
}

fn config(devices: Vec<DeviceConfig>) -> VmConfig {
    VmConfig { memory_bytes: 16 << 20, vcpus: 1, backing: Backing::Anonymous, devices }
}

fn both() -> Vec<DeviceConfig> {
    vec![DeviceConfig::Rng, DeviceConfig::Net { mac: MAC }]
}

fn made(devices: Vec<DeviceConfig>, backends: Vec<Backend>) -> Result<Vm, CreateError> {
    Vm::new(&config(devices), &CpuModel::host().expect("this host's CPU"), backends)
}

/// A machine with a source of random bytes and a network card, and what is behind its tap.
fn machine() -> (Vm, UnixDatagram, NetPort) {
    let (inside, outside) = UnixDatagram::pair().expect("a pair");
    outside.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let vm = made(both(), vec![Backend::Rng, Backend::Net(Tap::of_socket(inside))]).expect("a machine");
    let [port] = vm.network().try_into().expect("one card");
    (vm, outside, port)
}

fn driver(vm: &Vm, device: usize, queues: usize) -> Driver {
    // Room for eight queues each.
    Driver::new(vm.devices.device(device), Arc::clone(vm.memory()), queues).behind(device * 8)
}

fn frame(last: u8) -> Vec<u8> {
    [&[0; 24][..], &[0x88, 0xb5], &[last; 60]].concat()
}

fn copy_memory(from: &Vm, to: &Vm) {
    let mut page = vec![0; 4096];
    for at in (0..from.memory().size_bytes()).step_by(4096) {
        from.memory().read(at, &mut page).expect("in memory");
        to.memory().write(at, &page).expect("in memory");
    }
}

#[test]
fn devices_and_what_they_need_must_match() {
    if !has_kvm("devices_and_what_they_need_must_match") {
        return;
    }
    let refused = made(both(), vec![Backend::Rng]).expect_err("too few");
    assert!(matches!(refused, CreateError::Device(DeviceCreateError::Count { devices: 2, backends: 1 })));
    let refused = made(both(), vec![Backend::Rng, Backend::Rng]).expect_err("another kind");
    assert_eq!(refused.to_string(), "device 1 is a net device, and was given what a rng device needs");
}

#[test]
fn devices_move_with_their_machine() {
    if !has_kvm("devices_move_with_their_machine") {
        return;
    }
    let (mut first, _net, first_port) = machine();
    first.boot(&elf::elf(COUNT), "", None).expect("boots");
    let (mut rng, mut net) = (driver(&first, 0, 1), driver(&first, 1, 2));
    rng.set_up(0);
    net.set_up(0);
    rng.add(0, &[(BUFFER, 8, true)]);
    rng.kick(0);
    first.start();
    assert_eq!(rng.wait_used(0), 8);
    first.pause().expect("pauses");
    rng.add(0, &[(BUFFER + 8, 8, true)]);
    net.add(0, &[(BUFFER + 4096, 2048, true)]);
    rng.kick(0);
    let state = first.save().expect("saves");
    assert!(first.first_pages().contains(&(places(0)[2] / 4096)));
    first_port.inject(&frame(9)).expect("room");

    let (mut second, net_of_second, port) = machine();
    copy_memory(&first, &second);
    second.restore(&state).expect("restores");
    let mut rng = rng.on(second.devices.device(0), second.memory());
    let mut net = net.on(second.devices.device(1), second.memory());
    assert_eq!((rng.used(0), net.used(0)), (None, None), "not before the start");
    port.inject(&frame(1)).expect("room");
    second.start();
    assert_eq!(rng.wait_used(0), 8, "what was asked of the first is done by the second");
    assert_eq!(net.wait_used(0), 86);
    net.add(0, &[(BUFFER + 4096, 2048, true)]);
    net.kick(0);
    net_of_second.send(&frame(2)).expect("sends");
    assert_eq!(net.wait_used(0), 86);
    assert_eq!((port.counters().received, first_port.counters().received), (2, 0));

    // The first goes on, too, as after a migration that failed.
    first.resume().expect("resumes");
    let mut rng = driver(&first, 0, 1).at_chain(1);
    assert_eq!(rng.wait_used(0), 8);
    drop(first);
    assert!(first_port.take_frame(&mut [0; 100]).expect("the tap lives on").is_none());
}

/// A first machine, paused with a request for random bytes in its device's queue, and its state.
fn asked() -> (Vm, Driver, Vec<u8>) {
    let (mut first, ..) = machine();
    first.boot(&elf::elf(COUNT), "", None).expect("boots");
    let mut rng = driver(&first, 0, 1);
    rng.set_up(0);
    first.start();
    first.pause().expect("pauses");
    rng.add(0, &[(BUFFER, 8, true)]);
    let state = first.save().expect("saves");
    (first, rng, state)
}

fn has_missing_pages(test: &str) -> bool {
    let probed = MissingPages::probe().map_err(|reason| println!("skipped: {test}: {reason}"));
    probed.is_ok() && has_kvm(test)
}

/// Reads the faults that there are.
fn faults(missing: &MissingPages) -> Vec<u64> {
    let mut faults = Vec::new();
    missing.read_faults(&mut faults).expect("reads faults");
    faults.iter().map(|fault| fault.page).collect()
}

#[test]
fn a_device_whose_pages_are_missing_waits_for_them() {
    let test = "a_device_whose_pages_are_missing_waits_for_them";
    if !has_missing_pages(test) {
        return;
    }
    let (first, rng, state) = asked();
    let (mut second, ..) = machine();
    let missing = MissingPages::open(second.memory()).expect("opens");
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut served, mut page) = (Vec::new(), vec![0; 4096]);
            while !stop.load(Ordering::SeqCst) {
                for fault in faults(&missing) {
                    first.memory().read(fault * 4096, &mut page).expect("in memory");
                    missing.install(fault, &page).expect("installs");
                    served.push(fault);
                }
                std::thread::sleep(Duration::from_micros(20));
            }
            served
        });
        second.restore(&state).expect("restores");
        second.start();
        let mut rng = rng.on(second.devices.device(0), second.memory());
        assert_eq!(rng.wait_used(0), 8);
        stop.store(true, Ordering::SeqCst);
        server.join().expect("no panic")
    });
    assert!(served.contains(&(BUFFER / 4096)), "the device's buffer was missing");
}

#[test]
fn a_device_that_waits_for_ever_does_not_keep_its_machine_from_ending() {
    let test = "a_device_that_waits_for_ever_does_not_keep_its_machine_from_ending";
    if !has_missing_pages(test) {
        return;
    }
    let (_first, _rng, state) = asked();
    let (mut second, ..) = machine();
    let missing = MissingPages::open(second.memory()).expect("opens");
    second.restore(&state).expect("restores");
    assert!(faults(&missing).is_empty(), "loading a state touches no guest memory");
    second.start();
    let ring = places(0)[1] / 4096;
    let mut seen = Vec::new();
    until("the device waits for its ring", || {
        seen.extend(faults(&missing));
        seen.contains(&ring)
    });
    let memory = Arc::clone(second.memory());
    drop(second);
    drop(missing);
    assert_eq!(Arc::strong_count(&memory), 1, "no thread is left that has it");
}

/// What a device was asked, and the one page that never comes.
struct Unfinished {
    device: usize,
    queue: usize,
    chain: Vec<(u64, u32, bool)>,
    never: u64,
}

/// What a console's guest wrote.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Issue 12, entry 8: a thread that waits for a missing page is let go with zeros when the machine ends.
#[test]
fn entry_8_of_what_never_came_nothing_leaves_a_machine_that_ends() {
    let test = "entry_8_of_what_never_came_nothing_leaves_a_machine_that_ends";
    if !has_missing_pages(test) {
        return;
    }
    const HEADER: u64 = 0x50_0000;
    const DISCARD_HEADER: u64 = 0x51_0000;
    const STATUS: u64 = 0x52_0000;
    // The first half of a segment is on one page, the second on the next.
    const SEGMENT: u64 = 0x54_0ff8;
    let write = |never| Unfinished {
        device: 0,
        queue: 0,
        chain: vec![(HEADER, 16, false), (BUFFER, 8192, false), (STATUS, 1, true)],
        never,
    };
    let discard = |never| Unfinished {
        chain: vec![(DISCARD_HEADER, 16, false), (SEGMENT, 16, false), (STATUS, 1, true)],
        ..write(never)
    };
    let send = |device| Unfinished { device, queue: 1, chain: vec![(BUFFER, 100, false)], never: BUFFER };
    let [descriptors, available, _] = places(0);
    let mut all: Vec<_> = [descriptors, available, HEADER, BUFFER, BUFFER + 4096].map(write).into();
    all.extend([SEGMENT, SEGMENT + 8].map(discard));
    all.extend([1, 2].map(send));
    for case in all {
        let file = memfd_create("disk", MemfdFlags::CLOEXEC).map(std::fs::File::from).expect("a memfd");
        file.write_all_at(&[0xdd; 1 << 20], 0).expect("writes");
        let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let (printed, block) = (Printed::default(), DeviceConfig::Block { read_only: false, bytes: 1 << 20 });
        let machine = || {
            let (inside, outside) = UnixDatagram::pair().expect("a pair");
            let disk = Disk::new(&path, false).expect("a disk");
            let backends = vec![Backend::Disk(disk), Backend::Net(Tap::of_socket(inside)), Backend::Console];
            let devices = vec![block.clone(), DeviceConfig::Net { mac: MAC }, DeviceConfig::Console];
            (made(devices, backends).expect("a machine"), outside)
        };
        let (mut first, _net) = machine();
        first.boot(&elf::elf(COUNT), "", None).expect("boots");
        let mut driver = driver(&first, case.device, case.queue + 1);
        driver.set_up(0);
        first.start();
        first.pause().expect("pauses");
        let put = |at: u64, bytes: &[u8]| first.memory().write(at, bytes).expect("in memory");
        put(HEADER, &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &3u64.to_le_bytes()].concat());
        put(DISCARD_HEADER, &[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(SEGMENT, &[&8u64.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat());
        put(BUFFER, &[0x77; 8192]);
        driver.add(case.queue, &case.chain);
        let state = first.save().expect("saves");
        first.release_disks().expect("writes back");

        let (mut second, outside) = machine();
        second.virtio_consoles()[0].set_output(Box::new(printed.clone()));
        let missing = MissingPages::open(second.memory()).expect("opens");
        second.restore(&state).expect("restores");
        second.take_disks().expect("free");
        second.start();
        let (mut waits, mut page) = (false, vec![0; 4096]);
        until("the device waits for the page that never comes", || {
            for fault in faults(&missing) {
                if fault == case.never / 4096 {
                    waits = true;
                } else {
                    first.memory().read(fault * 4096, &mut page).expect("in memory");
                    missing.install(fault, &page).expect("installs");
                }
            }
            waits
        });
        drop(second);
        let what = format!("device {}, page {:#x}", case.device, case.never);
        let mut disk = vec![0; 1 << 20];
        file.read_exact_at(&mut disk, 0).expect("reads");
        assert_eq!(disk.iter().position(|&byte| byte != 0xdd), None, "{what}: the disk is as it was");
        assert!(printed.0.lock().expect("no panic").is_empty(), "{what}: nothing is printed");
        outside.set_nonblocking(true).expect("a socket");
        assert!(!matches!(outside.recv(&mut page), Ok(1..)), "{what}: no frame is sent");
    }
}

#[test]
fn disks_follow_the_guest_and_come_back() {
    if !has_kvm("disks_follow_the_guest_and_come_back") {
        return;
    }
    let file = std::fs::File::from(
        rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd"),
    );
    file.set_len(1 << 20).expect("grows");
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    let config = || DeviceConfig::Block { read_only: false, bytes: 1 << 20 };
    let disk = || vec![Backend::Disk(Disk::new(&path, false).expect("a disk"))];
    let smaller = made(vec![DeviceConfig::Block { read_only: false, bytes: 512 }], disk());
    assert!(matches!(smaller, Err(CreateError::Device(DeviceCreateError::Disk { wants: 512, .. }))));

    let mut first = made(vec![config()], disk()).expect("a machine");
    first.boot(&elf::elf(COUNT), "", None).expect("boots, with its disk");
    let mut other = made(vec![config()], disk()).expect("a machine");
    let refused = other.boot(&elf::elf(COUNT), "", None).expect_err("the disk is taken");
    assert!(matches!(refused, crate::BootError::Disk(DiskError::Busy { .. })), "{refused}");
    first.start();
    first.sync_disks().expect("writes back");
    first.pause().expect("pauses");
    let state = first.save().expect("saves");
    other.restore(&state).expect("restores");
    assert!(matches!(other.take_disks(), Err(DiskError::Busy { .. })));
    first.release_disks().expect("writes back");
    other.take_disks().expect("free");
    let refused = first.resume().expect_err("another machine has it");
    assert!(matches!(refused, crate::PauseError::Disk(DiskError::Busy { .. })), "{refused}");
    drop(other);
    first.resume().expect("free again: the end of a machine is the end of its locks");
    first.release_disks().expect("does nothing");
    let mut other = made(vec![config()], disk()).expect("a machine");
    assert!(matches!(other.take_disks(), Err(DiskError::Busy { .. })), "a running machine keeps its disks");
}

#[test]
fn other_devices_are_refused() {
    if !has_kvm("other_devices_are_refused") {
        return;
    }
    let (mut first, ..) = machine();
    first.boot(&elf::elf(COUNT), "", None).expect("boots");
    let state = first.save().expect("saves");
    for devices in [vec![], vec![DeviceConfig::Rng, DeviceConfig::Rng]] {
        let backends = devices.iter().map(|_| Backend::Rng).collect();
        let mut other = made(devices, backends).expect("a machine");
        let refused = other.restore(&state).expect_err("other devices");
        assert!(matches!(refused, RestoreError::OtherMachine { .. }), "{refused}");
        assert!(refused.to_string().contains("02:00:00:00:00:01"), "{refused}");
    }
}

#[test]
fn every_prefix_and_every_flipped_byte_of_a_state_with_devices_is_refused() {
    if !has_kvm("every_prefix_and_every_flipped_byte_of_a_state_with_devices_is_refused") {
        return;
    }
    let (mut first, _net, port) = machine();
    first.boot(&elf::elf(COUNT), "", None).expect("boots");
    driver(&first, 1, 2).set_up(0);
    port.inject(&frame(1)).expect("room");
    let state = first.save().expect("saves");
    let (mut second, ..) = machine();
    for length in 0..state.len() {
        assert!(matches!(second.restore(&state[..length]), Err(RestoreError::Decode(_))), "{length} bytes");
    }
    let mut flipped = state.clone();
    for at in 0..state.len() {
        flipped[at] ^= 0x41;
        assert!(matches!(second.restore(&flipped), Err(RestoreError::Decode(_))), "byte {at}");
        flipped[at] = state[at];
    }
    second.restore(&state).expect("the whole one is taken");
}
