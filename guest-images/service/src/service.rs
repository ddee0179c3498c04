//! The services and the stack under them, one small step at a time.
//!
//! ```text
//!            wake(): the device has something
//!                       │
//!  Quiet ──────────► Ingress ── a frame a step ──► Serve ── a look at all sockets ──► Egress ──► Quiet
//!    │ ▲                ▲                            ▲                                  │
//!    │ └ a page of      └── more frames waited ──────┼──────────────────────────────────┤
//!    │   /memory        a connection has more to do ─┴──────────────────────────────────┘
//!    └ a timer is due ──────────────────────────────►
//! ```
//! Nobody holds back who sends datagrams, and buffers end: so no frame is taken in while datagrams wait to be echoed, as
//! long as the device takes what goes out. What comes all at once after a long pause waits in its queue.
//!
//! The guest's loop takes a step between two of its own pages, so that neither waits long for the other.

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};
use telemetry::{NetworkCounters, command_line::Network};

use crate::gate::{Admission, Gate};
use crate::guest::Guest;
use crate::http::Connection;
use crate::memory::{Buffers, Memory};
use crate::slot::{Slot, give_up_one};
use crate::{ECHO_CONNECTIONS, ECHO_PORT, HTTP_CONNECTIONS, HTTP_PORT, echo};

/// Frames taken in before the services get their turn, and frames handed out in one step.
const BURST: usize = 16;
/// Requests answered, or chunks echoed, in one step.
const WORK_PER_STEP: usize = 16;
/// How often connections that shake hands or close are looked at.
const SWEEP: Duration = Duration::from_millis(50);

#[derive(Clone, Copy)]
enum Stage {
    Quiet,
    Ingress { frames: usize },
    Serve,
    Egress,
}

/// The network services of one guest.
pub struct Service<'a> {
    interface: Interface,
    sockets: SocketSet<'a>,
    http: [Connection; HTTP_CONNECTIONS],
    echo: [Slot; ECHO_CONNECTIONS],
    udp: SocketHandle,
    stage: Stage,
    /// Whether the device may hold more frames.
    waiting: bool,
    /// Whether some connection has more to do than fits a step.
    unserved: bool,
    /// Datagrams wait, and the device takes frames: they go first.
    echoing: bool,
    /// When the stack wants to be looked at.
    timer: Option<Instant>,
    /// When connections under way want to be looked at.
    sweep: Option<Instant>,
    /// Counts looks at all sockets: each begins at another one.
    turn: usize,
    touching: usize,
    next_touch: usize,
    admission: Admission,
    counters: NetworkCounters,
}

impl<'a> Service<'a> {
    /// Services at a static address. `seed` makes sequence numbers hard to guess.
    pub fn new(
        network: &Network,
        mac: [u8; 6],
        seed: u64,
        memory: Memory<'a>,
        device: &mut impl Device,
        now: Instant,
    ) -> Self {
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, device, now);
        interface.update_ip_addrs(|addresses| {
            let own = IpCidr::Ipv4(Ipv4Cidr::new(network.address, network.prefix));
            addresses.push(own).expect("an interface has room for an address");
        });
        if let Some(gateway) = network.gateway {
            let routes = interface.routes_mut();
            routes.add_default_ipv4_route(gateway).expect("an interface has room for a route");
        }
        let Memory { buffers, sockets, datagrams: [received, sent] } = memory;
        let mut sockets = SocketSet::new(&mut sockets[..]);
        let mut add = |(receive, send): (&'a mut [u8], &'a mut [u8])| {
            let socket = tcp::Socket::new(tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(send));
            Slot::new(sockets.add(socket))
        };
        let Buffers { http, echo, datagrams: [incoming, outgoing] } = buffers;
        let http = http.each_mut().map(|(receive, send)| Connection::new(add((receive, send))));
        let echo = echo.each_mut().map(|(receive, send)| add((receive, send)));
        let mut socket = udp::Socket::new(
            udp::PacketBuffer::new(&mut received[..], &mut incoming[..]),
            udp::PacketBuffer::new(&mut sent[..], &mut outgoing[..]),
        );
        socket.bind(ECHO_PORT).expect("a new socket binds to any port but 0");
        let udp = sockets.add(socket);
        Self {
            interface,
            sockets,
            http,
            echo,
            udp,
            // The first step has the sockets listen.
            stage: Stage::Serve,
            waiting: true,
            unserved: false,
            echoing: false,
            timer: None,
            sweep: None,
            turn: 0,
            touching: 0,
            next_touch: 0,
            admission: Admission::default(),
            counters: NetworkCounters::default(),
        }
    }

    /// Says that the device may have received frames, or may take frames again.
    pub fn wake(&mut self) {
        self.waiting = true;
    }

    /// What was done so far.
    pub const fn counters(&self) -> &NetworkCounters {
        &self.counters
    }

    /// Takes one step, if there is anything to do. False if there is not.
    pub fn step(&mut self, device: &mut impl Device, now: Instant, guest: &mut impl Guest) -> bool {
        match self.stage {
            Stage::Ingress { frames } => self.take_frame(device, now, frames),
            Stage::Serve => self.serve(now, guest),
            Stage::Egress => self.send(device, now),
            Stage::Quiet => return self.start(now, guest),
        }
        true
    }

    /// What to do next, when nothing is under way.
    fn start(&mut self, now: Instant, guest: &mut impl Guest) -> bool {
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if self.echoing {
            let is_sending = self.sockets.get::<udp::Socket<'_>>(self.udp).send_queue() > 0;
            self.stage = if is_sending { Stage::Egress } else { Stage::Serve };
        } else if self.waiting {
            self.stage = Stage::Ingress { frames: 0 };
        } else if self.unserved || is_due(self.sweep) {
            self.stage = Stage::Serve;
        } else if is_due(self.timer) {
            self.stage = Stage::Egress;
        } else if self.touching > 0 {
            self.touch(now, guest);
        } else {
            return false;
        }
        true
    }

    fn take_frame(&mut self, device: &mut impl Device, now: Instant, frames: usize) {
        let Self { interface, sockets, admission, counters, .. } = self;
        let mut gate = Gate { device, admission, counters, frames_left: 0 };
        let taken = interface.poll_ingress_single(now, &mut gate, sockets);
        self.waiting = !matches!(taken, PollIngressSingleResult::None);
        let is_burst_over = frames + 1 >= BURST;
        self.stage =
            if self.waiting && !is_burst_over { Stage::Ingress { frames: frames + 1 } } else { Stage::Serve };
    }

    /// Looks at all sockets: accepts, answers, closes. Who was first this time is last the next.
    fn serve(&mut self, now: Instant, guest: &impl Guest) {
        let Self { sockets, http, echo, udp, counters, admission, .. } = self;
        // Half of a step is the datagrams', and what connections leave: neither keeps the other waiting for ever.
        let mut left = WORK_PER_STEP / 2;
        let datagrams = |sockets: &mut SocketSet<'_>, counters: &mut NetworkCounters, left: &mut usize| {
            let socket = sockets.get_mut(*udp);
            self::echo::datagrams(socket, &mut counters.datagrams, &mut counters.errors, left);
        };
        datagrams(sockets, counters, &mut left);
        left += WORK_PER_STEP / 2;
        let mut under_way = false;
        self.turn = self.turn.wrapping_add(1);
        admission.http.listening = 0;
        for connection in in_turn(http, self.turn) {
            let socket = sockets.get_mut(connection.slot.handle);
            let was_touching = connection.is_touching();
            if connection.slot.follow(socket, HTTP_PORT, now, counters) {
                connection.serve(socket, now, guest, counters, &mut left);
            } else {
                connection.forget();
            }
            match (was_touching, connection.is_touching()) {
                (false, true) => self.touching += 1,
                (true, false) => self.touching -= 1,
                _ => {}
            }
            admission.http.listening += usize::from(connection.slot.is_listening());
            under_way |= connection.slot.is_under_way();
        }
        admission.echo.listening = 0;
        for slot in in_turn(echo, self.turn) {
            let socket = sockets.get_mut(slot.handle);
            if slot.follow(socket, ECHO_PORT, now, counters) {
                self::echo::stream(slot, socket, now, &mut left);
            }
            admission.echo.listening += usize::from(slot.is_listening());
            under_way |= slot.is_under_way();
        }
        datagrams(sockets, counters, &mut left);
        self.make_room(now);
        // Where the step's work was used up, somebody may wait for more.
        self.unserved = left == 0;
        self.sweep = under_way.then(|| now + SWEEP);
        self.stage = Stage::Egress;
    }

    /// Where a connection request had to be held back, the connection least in use makes room for the next try.
    fn make_room(&mut self, now: Instant) {
        let Self { http, echo, admission, .. } = self;
        let idle_http = core::mem::take(&mut admission.http.refused)
            .then(|| give_up_one(http.iter().map(|connection| &connection.slot), now));
        let idle_echo = core::mem::take(&mut admission.echo.refused).then(|| give_up_one(echo.iter(), now));
        for handle in [idle_http, idle_echo].into_iter().flatten().flatten() {
            self.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
            self.counters.errors += 1;
        }
    }

    fn send(&mut self, device: &mut impl Device, now: Instant) {
        let Self { interface, sockets, admission, counters, .. } = self;
        let sent_before = counters.frames_out;
        let mut gate = Gate { device, admission, counters, frames_left: BURST };
        interface.poll_egress(now, &mut gate, sockets);
        let has_sent = self.counters.frames_out != sent_before;
        // Datagrams that had to wait for room have it now; streams have it once the peer acknowledges. The stack sends one
        // datagram at a time.
        let datagrams = self.sockets.get::<udp::Socket<'_>>(self.udp);
        self.echoing = has_sent && (datagrams.can_recv() || datagrams.send_queue() > 0);
        let timer = self.interface.poll_at(now, &self.sockets);
        // What is due and was not sent waits for the device, which says when it takes frames again.
        let patience = now + Duration::from_millis(1);
        self.timer = timer.map(|time| if has_sent { time } else { time.max(patience) });
        self.stage = Stage::Quiet;
    }

    /// Touches a page for one of those who asked for it, in turn.
    fn touch(&mut self, now: Instant, guest: &mut impl Guest) {
        let Self { sockets, http, counters, .. } = self;
        let wanted = (0..HTTP_CONNECTIONS)
            .map(|i| (self.next_touch + i) % HTTP_CONNECTIONS)
            .find(|i| http[*i].is_touching());
        let Some(i) = wanted else {
            self.touching = 0;
            return;
        };
        self.next_touch = i + 1;
        let socket = sockets.get_mut(http[i].slot.handle);
        if http[i].touch_one(socket, now, guest, counters) {
            self.touching -= 1;
            // Its answer is to be sent, and requests may wait behind it.
            self.stage = Stage::Serve;
        }
    }
}

/// All of a slice, from another element each turn.
fn in_turn<T>(slots: &mut [T], turn: usize) -> impl Iterator<Item = &mut T> {
    let (last, first) = slots.split_at_mut(turn % slots.len());
    first.iter_mut().chain(last)
}
