//! Frames of the guest's network that still come to this host once the guest was given up: they are carried over.
//!
//! Until the network has learned where the guest is now, its frames reach the source. They have waited in the host's
//! queue since the pause, so none is lost if the guest runs on here; once it does not, they go to the destination in
//! their order. One that is lost costs a TCP client 200 ms, many times the downtime.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use zerocopy::IntoBytes;

use crate::{
    protocol::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader},
    transport::Wire,
    vm::Network,
};

/// How long frames are waited for at once.
const TICK: Duration = Duration::from_millis(5);
/// How long frames are carried for a destination that does not say that it runs the guest.
const IN_DOUBT_LIMIT: Duration = Duration::from_secs(5);

/// Carries frames, from the handover on.
pub(crate) struct Carrier {
    begin: Sender<()>,
    announced: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Carrier {
    /// Makes it ready. Nothing is taken from the host's queue yet.
    pub fn spawn(wire: Box<dyn Wire>, network: Arc<dyn Network>) -> io::Result<Carrier> {
        let (begin, wait) = channel();
        let announced = Arc::new(AtomicBool::new(false));
        let heard = announced.clone();
        let thread =
            Builder::new().name("carrier".to_owned()).spawn(move || carry(wire, &*network, &wait, &heard))?;
        Ok(Carrier { begin, announced, thread })
    }

    /// The guest was given up: whatever reaches this host is the destination's.
    pub fn begin(&self) {
        // If the thread is gone, it has panicked, and joining it says so.
        self.begin.send(()).ok();
    }

    /// The destination has told the network that the guest is there.
    pub fn announced(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// Waits until the network has learned. Returns how many frames were carried.
    pub fn finish(self) -> u64 {
        drop(self.begin);
        self.thread.join().unwrap_or_default()
    }
}

fn carry(
    mut wire: Box<dyn Wire>,
    network: &dyn Network,
    begin: &Receiver<()>,
    announced: &AtomicBool,
) -> u64 {
    let mut buffer = vec![0; NETWORK_HEADER_BYTES + MAX_NETWORK_FRAME_BYTES];
    if begin.recv().is_err() {
        // The guest stays here.
        return 0;
    }
    // A cancel comes too late now.
    wire.ignore_interrupt();
    let begun = Instant::now();
    let mut since_announced = None;
    let mut carried = 0;
    loop {
        match send_waiting(&mut *wire, network, &mut buffer, &mut carried) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    error = crate::report::in_words(&*error),
                    carried,
                    "frames are carried no more"
                );
                return carried;
            }
        }
        if announced.load(Ordering::Acquire) && since_announced.is_none() {
            since_announced = Some(Instant::now());
        }
        let has_learned = since_announced.is_some_and(|since| since.elapsed() >= network.learning_time());
        if has_learned || (since_announced.is_none() && begun.elapsed() >= IN_DOUBT_LIMIT) {
            // A destination that is gone needs no last word.
            wire.send(NetworkHeader::end().as_bytes()).ok();
            return carried;
        }
        network.wait(TICK.min(network.learning_time()));
    }
}

/// Sends all frames that wait.
fn send_waiting(
    wire: &mut dyn Wire,
    network: &dyn Network,
    buffer: &mut [u8],
    carried: &mut u64,
) -> Result<(), Box<dyn std::error::Error>> {
    while let Some((port, len)) = network.take_frame(&mut buffer[NETWORK_HEADER_BYTES..])? {
        buffer[..NETWORK_HEADER_BYTES].copy_from_slice(NetworkHeader::new(port, len).as_bytes());
        wire.send(&buffer[..NETWORK_HEADER_BYTES + len])?;
        *carried += 1;
    }
    Ok(())
}
