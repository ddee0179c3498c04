//! All virtio devices of a machine.

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, DeviceCreateError, Handle, function};
use super::balloon::BalloonPort;
use super::block::{DiskError, HeldDisk};
use super::console::ConsolePort;
use super::interrupt::Interrupt;
use super::net::NetPort;
use super::state::{DeviceState, DeviceStateError};
use super::transport::VirtioDevice;
use super::{WINDOW_BYTES, line_of, window_of, worker};
use crate::config::DeviceConfig;
use crate::devices::bus::Device;
use crate::devices::interrupt::InterruptLine;
use crate::kvm::CallError;
use crate::memory::GuestMemory;

#[derive(Debug)]
struct Slot {
    device: Arc<VirtioDevice>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
    handle: Handle,
}

/// The devices in the order of the configuration. Dropping it tells their threads to end.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    slots: Vec<Slot>,
}

impl Devices {
    /// Makes the devices, closed, each with its thread.
    pub(crate) fn new(
        configs: &[DeviceConfig],
        backends: Vec<Backend>,
        vm: &Arc<VmFd>,
        memory: &Arc<GuestMemory>,
    ) -> Result<Devices, DeviceCreateError> {
        if configs.len() != backends.len() {
            return Err(DeviceCreateError::Count { devices: configs.len(), backends: backends.len() });
        }
        let mut devices = Devices::default();
        for (index, (config, backend)) in configs.iter().zip(backends).enumerate() {
            let failed = |source| DeviceCreateError::Host { device: index, source };
            let control = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(failed)?;
            let control = Arc::new(control);
            let (function, handle) = function(index, config, backend, &control)?;
            let line = InterruptLine::new(Arc::clone(vm), line_of(index));
            let interrupt = Interrupt::new(Some(line));
            let device =
                VirtioDevice::new(Arc::clone(memory), interrupt, control, function).map_err(failed)?;
            let notify = IoEventAddress::Mmio(window_of(index) + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
            // One event for all queues: the worker looks at all of them anyway.
            vm.register_ioevent(device.kick(), &notify, NoDatamatch)
                .map_err(CallError::of("KVM_IOEVENTFD"))
                .map_err(|source| DeviceCreateError::Kvm { device: index, source })?;
            let device = Arc::new(device);
            let name = format!("{}{index}", config.name());
            let thread = worker::spawn(Arc::clone(&device), name).map_err(failed)?;
            devices.slots.push(Slot { device, thread: Some(thread), handle });
        }
        Ok(devices)
    }

    /// Their places on the bus.
    pub(crate) fn places(&self) -> Vec<(Range<u64>, Arc<dyn Device>)> {
        let place = |(index, slot): (usize, &Slot)| {
            let start = window_of(index);
            (start..start + WINDOW_BYTES, Arc::clone(&slot.device) as _)
        };
        self.slots.iter().enumerate().map(place).collect()
    }

    /// Device `index`, to be driven by a test.
    #[cfg(test)]
    pub(crate) fn device(&self, index: usize) -> Arc<dyn Device> {
        Arc::clone(&self.slots[index].device) as _
    }

    /// Handles on the network cards.
    pub(crate) fn ports(&self) -> Vec<NetPort> {
        self.handles(|handle| match handle {
            Handle::Net(port) => Some(port.clone()),
            _ => None,
        })
    }

    /// Handles on the consoles.
    pub(crate) fn consoles(&self) -> Vec<Arc<ConsolePort>> {
        self.handles(|handle| match handle {
            Handle::Console(port) => Some(Arc::clone(port)),
            _ => None,
        })
    }

    /// Handles on the balloons.
    pub(crate) fn balloons(&self) -> Vec<BalloonPort> {
        self.handles(|handle| match handle {
            Handle::Balloon(port) => Some(port.clone()),
            _ => None,
        })
    }

    /// Takes all disks. If one cannot be taken, lets go of those that were free before.
    pub(crate) fn take_disks(&self) -> Result<(), DiskError> {
        let disks = self.disks();
        let free: Vec<_> = disks.iter().filter(|disk| !disk.is_held()).collect();
        disks.iter().try_for_each(|disk| disk.take()).inspect_err(|_| {
            // Nothing was written to them: there is nothing that could fail.
            free.iter().for_each(|disk| drop(disk.release()));
        })
    }

    /// Writes back what was written to the disks so far.
    pub(crate) fn sync_disks(&self) -> Result<(), DiskError> {
        self.disks().iter().try_for_each(|disk| disk.sync())
    }

    /// Lets go of all disks, all that was written on them. On an error those from the failed one on are still held.
    pub(crate) fn release_disks(&self) -> Result<(), DiskError> {
        self.disks().iter().try_for_each(|disk| disk.release())
    }

    fn disks(&self) -> Vec<Arc<HeldDisk>> {
        self.handles(|handle| match handle {
            Handle::Disk(disk) => Some(Arc::clone(disk)),
            _ => None,
        })
    }

    fn handles<T>(&self, pick: impl Fn(&Handle) -> Option<T>) -> Vec<T> {
        self.slots.iter().filter_map(|slot| pick(&slot.handle)).collect()
    }

    /// The machine runs; for the `first` time or again.
    pub(crate) fn open(&self, first: bool) {
        self.slots.iter().for_each(|slot| slot.device.open(first));
    }

    /// The machine stands still: nothing is in flight afterwards. Fails with the number of a device that does not come
    /// to rest within `patience`; then all work on.
    pub(crate) fn close(&self, patience: Duration) -> Result<(), usize> {
        match self.slots.iter().position(|slot| !slot.device.close(patience)) {
            None => Ok(()),
            Some(stuck) => {
                self.slots[..stuck].iter().for_each(|slot| slot.device.open(false));
                Err(stuck)
            }
        }
    }

    /// Calls `with` with each device's state.
    pub(crate) fn save<E>(&self, mut with: impl FnMut(u16, &DeviceState) -> Result<(), E>) -> Result<(), E> {
        let mut all = self.slots.iter().enumerate();
        all.try_for_each(|(index, slot)| with(index as u16, &slot.device.save()))
    }

    /// Whether `states`, one for each device, can be these devices'.
    pub(crate) fn check(&self, states: &[DeviceState]) -> Result<(), DeviceStateError> {
        let mut all = self.slots.iter().zip(states).enumerate();
        all.try_for_each(|(device, (slot, state))| {
            slot.device.check(state).map_err(|source| DeviceStateError { device, source })
        })
    }

    /// Takes over checked states.
    pub(crate) fn restore(&self, states: &[DeviceState]) {
        self.slots.iter().zip(states).for_each(|(slot, state)| slot.device.restore(state));
    }

    /// Calls `with` for the guest-physical address of each ring in use.
    pub(crate) fn rings(&self, mut with: impl FnMut(u64)) {
        self.slots.iter().for_each(|slot| slot.device.rings(&mut with));
    }

    /// Asks the threads to end, and takes those that have. Returns whether all have. To be repeated: one that waits for a
    /// missing page cannot be asked yet.
    pub(crate) fn leave(&mut self) -> bool {
        for slot in &mut self.slots {
            if slot.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                // Joined so that its resources are gone; a panic in it has been printed already.
                let _ = slot.thread.take().map(JoinHandle::join);
            } else if slot.thread.is_some() {
                slot.device.leave();
            }
        }
        self.slots.iter().all(|slot| slot.thread.is_none())
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.leave();
    }
}
