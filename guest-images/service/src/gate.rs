//! A device with a gatekeeper: it counts frames, and drops connection requests that nobody could accept now.
//!
//! smoltcp has no backlog: one listening socket takes one connection, and refuses the next with a reset, which a client
//! reports as failure. A request that is dropped comes again a second later, as with Linux's full backlog.

use smoltcp::phy::{self, Device, DeviceCapabilities};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};
use telemetry::NetworkCounters;

use crate::{ECHO_PORT, HTTP_PORT};

/// How many connections one port can accept now, and whether one had to be held back.
#[derive(Default)]
pub struct Backlog {
    /// Sockets that listen.
    pub listening: usize,
    /// Whether a request was dropped since this was last looked at.
    pub refused: bool,
}

impl Backlog {
    fn admits(&mut self) -> bool {
        let admits = self.listening > 0;
        self.refused |= !admits;
        self.listening = self.listening.saturating_sub(1);
        admits
    }
}

/// What the gatekeeper knows.
#[derive(Default)]
pub struct Admission {
    pub http: Backlog,
    pub echo: Backlog,
}

impl Admission {
    /// Whether a frame may come in: all may, but a connection request to a port on which no socket listens now.
    fn admits(&mut self, frame: &[u8]) -> bool {
        match requested_port(frame) {
            Some(HTTP_PORT) => self.http.admits(),
            Some(ECHO_PORT) => self.echo.admits(),
            _ => true,
        }
    }
}

/// The port a frame asks to connect to, if that is what it does.
fn requested_port(frame: &[u8]) -> Option<u16> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.next_header() != IpProtocol::Tcp || packet.frag_offset() != 0 {
        return None;
    }
    let segment = TcpPacket::new_checked(packet.payload()).ok()?;
    (segment.syn() && !segment.ack()).then(|| segment.dst_port())
}

/// The device, with its gatekeeper at the door.
pub struct Gate<'a, D> {
    pub device: &'a mut D,
    pub admission: &'a mut Admission,
    pub counters: &'a mut NetworkCounters,
    /// Frames that may be sent now, but for answers to one that comes in.
    pub frames_left: usize,
}

impl<D: Device> Device for Gate<'_, D> {
    type RxToken<'a>
        = RxToken<'a, D::RxToken<'a>>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, D::TxToken<'a>>
    where
        Self: 'a;

    fn receive(&mut self, now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let (frame, answer) = self.device.receive(now)?;
        let NetworkCounters { frames_in, frames_out, errors, .. } = &mut *self.counters;
        *frames_in += 1;
        Some((
            RxToken { token: frame, admission: &mut *self.admission, errors },
            TxToken { token: answer, frames_out },
        ))
    }

    fn transmit(&mut self, now: Instant) -> Option<Self::TxToken<'_>> {
        self.frames_left = self.frames_left.checked_sub(1)?;
        let token = self.device.transmit(now)?;
        Some(TxToken { token, frames_out: &mut self.counters.frames_out })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.device.capabilities()
    }
}

/// A frame at the door.
pub struct RxToken<'a, T> {
    token: T,
    admission: &'a mut Admission,
    errors: &'a mut u64,
}

impl<T: phy::RxToken> phy::RxToken for RxToken<'_, T> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        self.token.consume(|frame| {
            if self.admission.admits(frame) {
                take(frame)
            } else {
                *self.errors += 1;
                // smoltcp ignores an empty frame.
                take(&[])
            }
        })
    }
}

/// Leave to send a frame.
pub struct TxToken<'a, T> {
    token: T,
    frames_out: &'a mut u64,
}

impl<T: phy::TxToken> phy::TxToken for TxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, fill: F) -> R {
        *self.frames_out += 1;
        self.token.consume(bytes, fill)
    }
}
