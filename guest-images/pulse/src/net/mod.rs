//! The network service on this guest's device: vCPU 0 serves it between two steps of its loop.
//!
//! What answers is the crate `guest-service`, which is tested on the host. Here are the device (`device.rs`, `queue.rs`,
//! `dma.rs`), the search for it (`find.rs`), and the guest as the services see it (`hands.rs`).

mod device;
mod dma;
mod find;
mod hands;
mod queue;

use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use guest_service::memory::DATAGRAMS;
use guest_service::smoltcp::iface::SocketStorage;
use guest_service::smoltcp::socket::udp::PacketMetadata;
use guest_service::smoltcp::time::Instant;
use guest_service::{Buffers, Clock, Memory, SOCKETS, Service};
use telemetry::NetworkCounters;
use telemetry::command_line::{Network as Address, VirtioWindow};
use telemetry::layout::NetworkPart;

use crate::cpu::rdtsc;
use crate::guest::Guest;
use crate::ioapic;
use device::Device;
pub use find::NoDevice;
pub use hands::{Hands, Walk};

/// Set by ring 0's handler of device interrupts.
#[unsafe(no_mangle)]
static device_interrupted: AtomicU32 = AtomicU32::new(0);

/// Not zero while a device's interrupt waits to be served: the spin loop leaves by it, and ring 0 does not sleep.
pub fn interrupted() -> &'static AtomicU32 {
    &device_interrupted
}

/// The service, its device and its clock.
pub struct Network {
    service: Service<'static>,
    device: Device,
    clock: Clock,
    published: NetworkCounters,
    window: VirtioWindow,
    address: Address,
}

/// All memory of the service, in the image: the oracle does not own it. All zero until it is used, so that it takes no
/// room in the image's file.
struct Arena {
    buffers: UnsafeCell<Buffers>,
    sockets: UnsafeCell<MaybeUninit<[SocketStorage<'static>; SOCKETS]>>,
    datagrams: UnsafeCell<MaybeUninit<[[PacketMetadata; DATAGRAMS]; 2]>>,
    network: UnsafeCell<MaybeUninit<Network>>,
}
// SAFETY: only `Network::start` touches it, once, on vCPU 0; what it hands out stays there.
unsafe impl Sync for Arena {}
static ARENA: Arena = Arena {
    buffers: UnsafeCell::new(Buffers::ZERO),
    sockets: UnsafeCell::new(MaybeUninit::uninit()),
    datagrams: UnsafeCell::new(MaybeUninit::uninit()),
    network: UnsafeCell::new(MaybeUninit::uninit()),
};

impl Network {
    /// Starts the service, if the command line has an address for it.
    ///
    /// # Errors
    /// If the machine has no network device that could be used.
    ///
    /// # Safety
    /// Called once, on vCPU 0: the buffers and sockets are handed out without asking who has them.
    #[inline(never)] // The caller's frame lasts for ever, and a service is some 10 KiB before it is in its place.
    pub unsafe fn start(guest: &Guest) -> Result<Option<&'static mut Self>, NoDevice> {
        let Some(address) = guest.line.network else { return Ok(None) };
        let (transport, window) = find::network_device(&guest.line.virtio)?;
        let mut device = Device::start(transport, window.address as usize)
            .map_err(|problem| NoDevice::Unusable { window, problem })?;
        // SAFETY: the caller's promise: this runs once, so these are the only references.
        let memory = unsafe { ARENA.memory() };
        let tsc = rdtsc();
        let mut clock = Clock::new(guest.tsc_khz, tsc);
        let mac = device.mac();
        let service = Service::new(&address, mac, tsc, memory, &mut device, clock.at(tsc));
        ioapic::route_to_boot_processor(window.irq);
        let network = Self { service, device, clock, published: NetworkCounters::default(), window, address };
        // SAFETY: as above.
        Ok(Some(unsafe { (*ARENA.network.get()).write(network) }))
    }

    /// Takes one step, if there is anything to do. False if there is not.
    pub fn step(&mut self, tsc: u64, hands: &mut Hands<'_, '_>) -> bool {
        // A plain look first: the exchange is a locked instruction, and there is hardly ever an interrupt.
        if device_interrupted.load(Relaxed) != 0 {
            device_interrupted.store(0, SeqCst);
            // Before the queues are looked at: what comes after this interrupts again.
            self.device.acknowledge();
            self.service.wake();
        }
        let now: Instant = self.clock.at(tsc);
        let has_done = self.service.step(&mut self.device, now, hands);
        if has_done {
            self.device.notify();
        }
        has_done
    }

    /// Looks for frames without an interrupt, once a millisecond: an interrupt that is lost (an edge that a machine did
    /// not carry over, say) costs a moment and not the network.
    pub fn look(&mut self) {
        if self.device.has_frames() {
            self.service.wake();
        }
    }

    /// Writes the counters to telemetry, as far as they have changed.
    pub fn publish(&mut self, part: &NetworkPart) {
        let counters = self.service.counters();
        if self.published != *counters {
            counters.publish(part);
            self.published = *counters;
        }
    }
}

/// The line on the console.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, window: VirtioWindow { address: at, irq, .. }, .. } = self;
        let [a, b, c, d, e, g] = self.device.mac();
        write!(f, "network {address}, MAC {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}, ")?;
        write!(f, "virtio-mmio at {at:#x}, IRQ {irq}")
    }
}

impl Arena {
    /// The service's memory.
    ///
    /// # Safety
    /// Once.
    unsafe fn memory(&'static self) -> Memory<'static> {
        // SAFETY: the caller's promise makes these references exclusive. The sockets' storage is written before it is
        // taken for initialised; in place, since all of it would not fit on a stack.
        unsafe {
            let sockets = self.sockets.get().cast::<SocketStorage<'static>>();
            for i in 0..SOCKETS {
                sockets.add(i).write(SocketStorage::EMPTY);
            }
            let [received, sent] = (*self.datagrams.get()).write([[PacketMetadata::EMPTY; DATAGRAMS]; 2]);
            Memory {
                buffers: &mut *self.buffers.get(),
                sockets: &mut *sockets.cast(),
                datagrams: [received, sent],
            }
        }
    }
}
