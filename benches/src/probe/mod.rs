//! The probe: an open-loop client of the guest's services, and what it saw of a migration.
//!
//! ```text
//! schedule ─► request ─► guest ─► response ─► Record          (one thread, while the guest moves)
//! Recording, and when the migration was ─► analysis ─► ClientReport     (pure functions, afterwards)
//! ```
//! *Open loop*: requests are sent when the schedule says so, whether or not the last one was answered, and response
//! time counts from the moment at which the schedule wanted the request to be sent. A client that waits for answers
//! would send nothing during a stall, and see one slow response where a hundred users saw one each.
//!
//! Three kinds of traffic share the thread: HTTP requests over one long-lived connection, pipelined when responses
//! are late; numbered UDP datagrams that are echoed; and, if it is wanted, a TCP connection whose stream is echoed
//! and checked byte by byte. Nothing is allocated while they flow.
//!
//! **The clock** is CLOCK_MONOTONIC ([`now_ns`]), which is one for all processes and namespaces of a machine, and the
//! one behind [`std::time::Instant`]: the engine's phases can be laid over the records. It is the third clock beside
//! the engine's and the guest's, and its figures are not mixed with theirs. What the probe itself was late, because
//! the host ran something else, is recorded beside it.

mod analysis;
mod datagrams;
mod echo;
mod http;
mod record;
mod requests;
mod schedule;
mod socket;
mod thread;

pub use analysis::{MigrationWindow, report};
pub use record::{Record, Recording};

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use thread::Traffic;

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts up from the boot of the machine.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What to ask of a guest, and how often.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Its HTTP service.
    pub http: SocketAddrV4,
    /// Its UDP echo, if it is to be asked.
    pub udp: Option<SocketAddrV4>,
    /// Its TCP echo, if a stream is to be checked.
    pub stream: Option<SocketAddrV4>,
    /// Time between two requests.
    pub request_period: Duration,
    /// Time between two datagrams, and between two pieces of the stream.
    pub datagram_period: Duration,
    /// How long the service may take to be there.
    pub patience: Duration,
    /// How long the probe runs at the most: room for so many records is made beforehand.
    pub longest: Duration,
}

impl ProbeConfig {
    /// A thousand requests and a thousand datagrams a second to the services of the guest at `address`, each at its
    /// well-known port, and a checked stream.
    pub fn of_guest(address: std::net::Ipv4Addr) -> ProbeConfig {
        let at = |port| SocketAddrV4::new(address, port);
        ProbeConfig {
            http: at(80),
            udp: Some(at(7)),
            stream: Some(at(7)),
            request_period: Duration::from_millis(1),
            datagram_period: Duration::from_millis(1),
            patience: Duration::from_secs(10),
            longest: Duration::from_secs(300),
        }
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// Nobody answers.
    #[error("the client cannot connect to the guest's {service} at {address} within {} s; does the guest have a network?", patience.as_secs())]
    Connect {
        /// Which service.
        service: &'static str,
        /// Where.
        address: SocketAddr,
        /// How long it was tried.
        patience: Duration,
        /// The last reason.
        #[source]
        cause: io::Error,
    },
    /// The kernel gives no socket or no thread.
    #[error("{operation} for the client")]
    Resource {
        /// What was to be made.
        operation: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// A client at work. It stops when this is dropped.
#[derive(Debug)]
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Recording>>,
}

impl Probe {
    /// Connects and begins, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If a service does not answer in time.
    pub fn start(config: &ProbeConfig) -> Result<Probe, ProbeError> {
        let traffic = Traffic::connect(config)?;
        let stop = Arc::new(AtomicBool::new(false));
        let its_stop = stop.clone();
        let thread = std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || traffic.flow(&its_stop))
            .map_err(|cause| ProbeError::Resource { operation: "start a thread", cause })?;
        Ok(Probe { stop, thread: Some(thread) })
    }

    /// Sends nothing more, waits a moment for what is still to be answered, and hands over what was seen.
    pub fn finish(mut self) -> Recording {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("only `finish` and `drop` take it, and both end the probe");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
