//! virtio-net as one of smoltcp's devices: frames are read where the device wrote them, and written where it reads them.

use guest_service::smoltcp::phy::{self, DeviceCapabilities, Medium};
use guest_service::smoltcp::time::Instant;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{Error, Result};

use super::queue::{BUFFER_BYTES, Frames, HEADER_BYTES, Queue};

/// Frames that may wait for the guest: what a machine carried over from a migration's pause comes all at once.
const RECEIVE: usize = 128;
const SEND: usize = 64;
const RECEIVE_QUEUE: u16 = 0;
const SEND_QUEUE: u16 = 1;
const MAX_FRAME_BYTES: usize = 1514;
/// For a device without an address: locally administered.
const DEFAULT_MAC: [u8; 6] = [0x02, 0x46, 0x65, 0x72, 0x72, 0x79];

const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_EVENT_INDEX: u64 = 1 << 29;
const FEATURE_VERSION_1: u64 = 1 << 32;

/// Ferry's vendor number, "FRRY". Its devices raise an edge for each notification, acknowledged or not; elsewhere (QEMU)
/// a device holds its line until it is acknowledged, and has no second edge before that. An acknowledgement is an exit
/// to the machine, some 25 µs, so it is not made for nothing.
const VENDOR_FERRY: u32 = 0x5952_5246;
/// Both reasons for an interrupt (virtio 1.2, 4.2.2): used buffers, changed configuration.
const ALL_INTERRUPTS: u32 = 3;
/// Offset of the register that takes acknowledgements.
const ACKNOWLEDGE: usize = 0x64;

static RECEIVE_FRAMES: Frames<RECEIVE> = Frames::new();
static SEND_FRAMES: Frames<SEND> = Frames::new();

/// A network device.
pub struct Device {
    transport: MmioTransport<'static>,
    mac: [u8; 6],
    /// Register that takes acknowledgements, where they are needed.
    acknowledge: Option<*mut u32>,
    receive: Queue<RECEIVE>,
    send: Sender,
}

/// The send queue, and the buffers that are the driver's.
pub struct Sender {
    queue: Queue<SEND>,
    free: [u16; SEND],
    free_count: usize,
}

impl Device {
    /// Takes a device into use: features, queues, and all receive buffers.
    ///
    /// # Errors
    /// If it lacks something this driver needs.
    pub fn start(mut transport: MmioTransport<'static>, registers: usize) -> Result<Self> {
        transport.set_status(DeviceStatus::empty());
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        let offered = transport.read_device_features();
        if offered & FEATURE_VERSION_1 == 0 {
            return Err(Error::Unsupported);
        }
        let features = offered & (FEATURE_MAC | FEATURE_EVENT_INDEX | FEATURE_VERSION_1);
        transport.write_driver_features(features);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(Error::Unsupported);
        }
        let mac = if features & FEATURE_MAC != 0 { read_mac(&transport)? } else { DEFAULT_MAC };
        let event_index = features & FEATURE_EVENT_INDEX != 0;
        // SAFETY: each of the two statics is named here and nowhere else, and a second device is not started.
        let (mut receive, mut send) = unsafe {
            (
                Queue::new(&mut transport, RECEIVE_QUEUE, event_index, &RECEIVE_FRAMES)?,
                Queue::new(&mut transport, SEND_QUEUE, event_index, &SEND_FRAMES)?,
            )
        };
        send.want_no_interrupts();
        for buffer in 0..RECEIVE as u16 {
            receive.give_to_fill(buffer);
        }
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        receive.notify(&mut transport);
        let acknowledges = transport.vendor_id() != VENDOR_FERRY;
        let register = core::ptr::with_exposed_provenance_mut(registers + ACKNOWLEDGE);
        let free = core::array::from_fn(|buffer| buffer as u16);
        let send = Sender { queue: send, free, free_count: SEND };
        Ok(Self { transport, mac, acknowledge: acknowledges.then_some(register), receive, send })
    }

    /// The device's address, or one made up where it has none.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Acknowledges the device's interrupt, where that is needed.
    pub fn acknowledge(&mut self) {
        if let Some(register) = self.acknowledge {
            // Unread: whatever the reason was, the queues are looked at, and to ask for it would be another exit.
            // SAFETY: a register of the device that `find.rs` found at this window.
            unsafe { register.write_volatile(ALL_INTERRUPTS) };
        }
    }

    /// Whether frames have come in.
    pub fn has_frames(&self) -> bool {
        self.receive.has_used()
    }

    /// Tells the device of buffers it was given since the last time, if it wants to know.
    pub fn notify(&mut self) {
        // What is sent first: somebody waits for it.
        self.send.queue.notify(&mut self.transport);
        self.receive.notify(&mut self.transport);
    }
}

/// Byte by byte, as the specification has it for an array of bytes.
fn read_mac(transport: &MmioTransport<'_>) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    for (offset, byte) in mac.iter_mut().enumerate() {
        *byte = transport.read_config_space(offset)?;
    }
    Ok(mac)
}

impl phy::Device for Device {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = &'a mut Sender;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, &mut Sender)> {
        // A frame may have to be answered at once: without room for that it waits.
        self.send.make_room().then_some(())?;
        let (buffer, bytes) = self.receive.take(true)?;
        Some((Received { queue: &mut self.receive, buffer, bytes }, &mut self.send))
    }

    fn transmit(&mut self, _: Instant) -> Option<&mut Sender> {
        self.send.make_room().then_some(&mut self.send)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MAX_FRAME_BYTES;
        capabilities
    }
}

/// A frame that came in. When it is dropped the device has its buffer again.
pub struct Received<'a> {
    queue: &'a mut Queue<RECEIVE>,
    buffer: u16,
    bytes: usize,
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        // SAFETY: the buffer is the driver's until `drop` gives it back.
        let bytes = unsafe { &*self.queue.bytes(self.buffer) };
        take(bytes.get(HEADER_BYTES..self.bytes).unwrap_or(&[]))
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        self.queue.give_to_fill(self.buffer);
    }
}

impl Sender {
    /// Takes back what the device has sent, if no buffer is left. False if there is none even so.
    ///
    /// Not before: the driver tells the device to interrupt for the first buffer after those it has taken back.
    fn make_room(&mut self) -> bool {
        if self.free_count == 0 {
            while let Some((buffer, _)) = self.queue.take(false) {
                self.free[self.free_count] = buffer;
                self.free_count += 1;
            }
        }
        self.free_count > 0
    }
}

impl phy::TxToken for &mut Sender {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let bytes = bytes.min(BUFFER_BYTES - HEADER_BYTES);
        // `make_room` came before every token.
        self.free_count -= 1;
        let buffer = self.free[self.free_count];
        // SAFETY: a free buffer is the driver's.
        let frame = unsafe { &mut *self.queue.bytes(buffer) };
        // No offloads were agreed to, so the header stays as it is: zero.
        let result = fill(&mut frame[HEADER_BYTES..HEADER_BYTES + bytes]);
        self.queue.give_to_send(buffer, bytes);
        result
    }
}
