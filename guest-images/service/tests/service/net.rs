//! Two stacks and the wire between them. Time passes when a test says so.

use std::collections::VecDeque;

use guest_service::memory::DATAGRAMS;
use guest_service::smoltcp::iface::{Config, Interface, SocketSet, SocketStorage};
use guest_service::smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use guest_service::smoltcp::socket::udp::PacketMetadata;
use guest_service::smoltcp::time::{Duration, Instant};
use guest_service::smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};
use guest_service::{Buffers, Guest, Memory, SOCKETS, Service, Status};

pub const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const CLIENT: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Frames the device takes at a time, as a virtqueue has so many places.
const SEND_PLACES: usize = 64;

/// One end of the wire.
#[derive(Default)]
pub struct End {
    pub incoming: VecDeque<Vec<u8>>,
    pub outgoing: VecDeque<Vec<u8>>,
    limit: Option<usize>,
}

pub struct RxToken(Vec<u8>);
pub struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        let mut frame = vec![0; bytes];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl End {
    fn has_place(&self) -> bool {
        self.limit.is_none_or(|limit| self.outgoing.len() < limit)
    }
}

impl Device for End {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        self.has_place().then_some(())?;
        Some((RxToken(self.incoming.pop_front()?), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        self.has_place().then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest with 100 pages, of which the 13th to be touched is wrong.
#[derive(Default)]
pub struct TestGuest {
    pub touched: u64,
    pub has_no_pages: bool,
}

impl Guest for TestGuest {
    fn status(&self) -> Status {
        Status { uptime_us: 1, heartbeat: 2, vcpus: 3, pages_written: 4, working_set_pages: 100, errors: 5 }
    }

    fn touch(&mut self) -> bool {
        self.touched += 1;
        self.touched != 13
    }

    fn working_set_pages(&self) -> u64 {
        if self.has_no_pages { 0 } else { 100 }
    }
}

/// The service, its client, and the wire.
pub struct Net {
    pub service: Service<'static>,
    pub server: End,
    pub guest: TestGuest,
    pub client: Interface,
    pub client_end: End,
    pub sockets: SocketSet<'static>,
    pub now: Instant,
    pub next_port: u16,
}

/// Memory for ever, as a guest's statics.
pub fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// A slice of that kind.
pub fn leak_bytes(count: usize) -> &'static mut [u8] {
    Box::leak(vec![0; count].into_boxed_slice())
}

fn leak_buffers() -> &'static mut Buffers {
    let layout = std::alloc::Layout::new::<Buffers>();
    // SAFETY: zero is a value of all buffers (bytes), and they are too large to be made on a test's stack.
    unsafe { Box::leak(Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Buffers>())) }
}

impl Net {
    pub fn new() -> Self {
        let now = Instant::from_millis(1);
        let mut server = End { limit: Some(SEND_PLACES), ..End::default() };
        let memory = Memory {
            buffers: leak_buffers(),
            sockets: leak([const { SocketStorage::EMPTY }; SOCKETS]),
            datagrams: [leak([PacketMetadata::EMPTY; DATAGRAMS]), leak([PacketMetadata::EMPTY; DATAGRAMS])],
        };
        let address = format!("{SERVER}/24,gw={CLIENT}").parse().unwrap();
        let service = Service::new(&address, SERVER_MAC, 7, memory, &mut server, now);
        let mut client_end = End::default();
        let mut client =
            Interface::new(Config::new(EthernetAddress(CLIENT_MAC).into()), &mut client_end, now);
        client.update_ip_addrs(|addresses| addresses.push(IpCidr::new(CLIENT.into(), 24)).unwrap());
        let sockets: Vec<SocketStorage<'static>> = (0..256).map(|_| SocketStorage::EMPTY).collect();
        Self {
            service,
            server,
            guest: TestGuest::default(),
            client,
            client_end,
            sockets: SocketSet::new(Box::leak(sockets.into_boxed_slice())),
            now,
            next_port: 49_152,
        }
    }

    /// The service does what there is to do. It must come to an end.
    pub fn run_service(&mut self) {
        self.service.wake();
        let mut steps = 0;
        let mut before = *self.service.counters();
        while self.service.step(&mut self.server, self.now, &mut self.guest) {
            steps += 1;
            assert!(steps < 500_000, "the service does not come to rest");
            // No step keeps the guest's own work waiting for long, whatever there is to do.
            let after = *self.service.counters();
            assert!(after.requests + after.datagrams <= before.requests + before.datagrams + 16);
            assert!(after.frames_out <= before.frames_out + 16 && after.frames_in <= before.frames_in + 1);
            before = after;
            if self.server.outgoing.len() >= SEND_PLACES {
                break;
            }
        }
    }

    /// A millisecond: frames go over, both sides do what there is to do.
    pub fn turn(&mut self) {
        self.client.poll(self.now, &mut self.client_end, &mut self.sockets);
        self.server.incoming.append(&mut self.client_end.outgoing);
        self.run_service();
        self.client_end.incoming.append(&mut self.server.outgoing);
        self.now += Duration::from_millis(1);
    }

    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Turns until it is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..60_000 {
            if is_so(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}");
    }
}
