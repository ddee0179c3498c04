//! One socket of a TCP service: it listens, becomes a connection, and listens again.
//!
//! ```text
//! Listening ─► Handshake ─► Open ─► Closing ─► Listening
//!     ▲            │ 3 s      │ peer closes, reset, timeout
//!     └────────────┴──────────┘
//! ```

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};
use telemetry::NetworkCounters;

/// A peer that does not finish its handshake for so long gives its socket back.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// A peer that does not close its side for so long is cut off.
const LINGER: Duration = Duration::from_secs(5);
/// After its last acknowledgement, sent at once or with this delay, a connection needs no TIME-WAIT of its own here.
const LAST_ACKNOWLEDGEMENT: Duration = Duration::from_millis(20);
/// A connection without a request for so long may be given up when another wants in.
const HOARDING: Duration = Duration::from_secs(10);
/// Keep-alive probes of a quiet connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A peer that acknowledges nothing for so long is gone.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Listening,
    Handshake,
    Open,
    Closing,
    /// Closed by both sides; the last acknowledgement, or a reset, is under way.
    Parting,
}

/// A socket and what it is doing.
pub struct Slot {
    pub handle: SocketHandle,
    phase: Phase,
    /// When this phase began, or the last request of an open connection came.
    since: Instant,
}

impl Slot {
    /// A slot for a socket that does nothing yet.
    pub fn new(handle: SocketHandle) -> Self {
        Self { handle, phase: Phase::Listening, since: Instant::ZERO }
    }

    /// Follows what became of the socket, and has it listen again. True while data may flow.
    pub fn follow(
        &mut self,
        socket: &mut Socket<'_>,
        port: u16,
        now: Instant,
        counters: &mut NetworkCounters,
    ) -> bool {
        match socket.state() {
            State::Closed if socket.remote_endpoint().is_none() => self.listen(socket, port),
            State::Closed => self.part(socket, port, now, LINGER),
            State::TimeWait => self.part(socket, port, now, LAST_ACKNOWLEDGEMENT),
            // Anew, perhaps: a reset during the handshake leads back here.
            State::Listen => self.phase = Phase::Listening,
            State::SynReceived => {
                if self.phase == Phase::Handshake && now - self.since > HANDSHAKE {
                    counters.errors += 1;
                    socket.abort();
                }
                self.enter(Phase::Handshake, now);
            }
            _ => {
                if matches!(self.phase, Phase::Listening | Phase::Handshake) {
                    counters.connections += 1;
                    self.enter(Phase::Open, now);
                }
                if self.phase == Phase::Closing {
                    self.discard(socket, now, counters);
                }
            }
        }
        self.phase == Phase::Open
    }

    /// Notes that the peer makes good use of its connection.
    pub fn is_busy(&mut self, now: Instant) {
        self.since = now;
    }

    /// Closes this side: what is queued goes out, what still comes in is dropped.
    pub fn close(&mut self, socket: &mut Socket<'_>, now: Instant) {
        socket.close();
        self.enter(Phase::Closing, now);
    }

    /// Since when nobody has needed this connection, if it may be given up for another.
    pub fn hoards_since(&self, now: Instant) -> Option<Instant> {
        (self.phase == Phase::Open && now - self.since > HOARDING).then_some(self.since)
    }

    /// Whether it waits for a connection.
    pub fn is_listening(&self) -> bool {
        self.phase == Phase::Listening
    }

    /// Whether it is on its way to or from a connection, with a deadline.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Listening | Phase::Open)
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    fn listen(&mut self, socket: &mut Socket<'_>, port: u16) {
        self.phase = Phase::Listening;
        socket.listen(port).expect("a closed socket listens on any port but 0");
        // Requests are small and wait for an answer: nothing is gained by waiting for more to send.
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(TIMEOUT));
    }

    /// Leaves the socket alone until its last segment is out.
    fn part(&mut self, socket: &mut Socket<'_>, port: u16, now: Instant, patience: Duration) {
        self.enter(Phase::Parting, now);
        if now - self.since > patience {
            self.listen(socket, port);
        }
    }

    fn discard(&mut self, socket: &mut Socket<'_>, now: Instant, counters: &mut NetworkCounters) {
        while socket.can_recv() && socket.recv(|data| (data.len(), ())).is_ok() {}
        if now - self.since > LINGER {
            counters.errors += 1;
            socket.abort();
        }
    }
}

/// Gives up the connection that has been of no use for longest, if there is one.
pub fn give_up_one<'a>(slots: impl Iterator<Item = &'a Slot>, now: Instant) -> Option<SocketHandle> {
    slots
        .filter_map(|slot| Some((slot.hoards_since(now)?, slot.handle)))
        .min_by_key(|(since, _)| *since)
        .map(|(_, handle)| handle)
}
