//! Frames of the guest's network that come to this host from the pause on: they are carried over.
//!
//! ```text
//!        pause             handover              the network has learned
//! ──────────┼─────────────────┼─────────────────────────┼─────►
//!  to the   │ carried, and    │ carried                 │ to the guest,
//!  guest    │ kept meanwhile  │                         │ over there
//! ```
//! What came before the handover lies at the destination when the guest starts, ahead of all that comes there. If the
//! guest runs on here after all, it gets here what was kept. A frame that is lost, or overtaken, costs a TCP client up to
//! 200 ms, many times the downtime.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use zerocopy::IntoBytes;

use crate::{
    protocol::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader},
    report::in_words,
    transport::Wire,
    urgent::{Priority, set_priority},
    vm::{Network, VmError, WAITING_FRAME_BYTES, WAITING_FRAMES},
};

/// How long frames are waited for at once.
const TICK: Duration = Duration::from_millis(5);
/// How long frames are carried for a destination that does not say that it runs the guest.
const IN_DOUBT_LIMIT: Duration = Duration::from_secs(5);

/// Whose the frames are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// The guest stands still, and may run on here.
    Paused,
    /// It was given up.
    HandedOver,
    /// It runs at the destination, which has told the network so.
    Announced,
    /// It runs on here.
    CalledOff,
}

impl Stage {
    fn of(word: u8) -> Stage {
        [Stage::Paused, Stage::HandedOver, Stage::Announced]
            .into_iter()
            .find(|&stage| stage as u8 == word)
            .unwrap_or(Stage::CalledOff)
    }
}

/// Carries frames, from the pause on.
pub(crate) struct Carrier {
    begin: Option<Sender<()>>,
    stage: Arc<AtomicU8>,
    thread: Option<JoinHandle<u64>>,
}

impl Carrier {
    /// Makes it ready. Nothing is taken from the host's queue yet.
    pub fn spawn(wire: Box<dyn Wire>, network: Arc<dyn Network>) -> io::Result<Carrier> {
        let (begin, wait) = channel();
        let stage = Arc::new(AtomicU8::new(Stage::Paused as u8));
        let seen = stage.clone();
        let thread = Builder::new().name("carrier".to_owned()).spawn(move || {
            set_priority(Priority::Frames);
            let mut cargo = Cargo { wire, network, stage: seen, kept: Vec::new(), kept_bytes: 0, carried: 0 };
            match wait.recv() {
                Ok(()) => cargo.carry(),
                // The guest never stood still.
                Err(_) => 0,
            }
        })?;
        Ok(Carrier { begin: Some(begin), stage, thread: Some(thread) })
    }

    /// Waits until the network has learned. Returns how many frames were carried.
    pub fn finish(mut self) -> u64 {
        self.end()
    }

    fn end(&mut self) -> u64 {
        drop(self.begin.take());
        let called_off = Stage::CalledOff as u8;
        // A guest that was announced stays at the destination; in doubt, whoever resumes it here finds what was kept.
        for undecided in [Stage::Paused, Stage::HandedOver] {
            self.stage
                .compare_exchange(undecided as u8, called_off, Ordering::AcqRel, Ordering::Acquire)
                .ok();
        }
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or_default())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.end();
    }
}

/// Carrying of a guest that stands still. When this is dropped before the handover, the guest has back what was kept for
/// it: so it goes before the guest runs on.
pub(crate) struct Carrying<'a> {
    carrier: &'a mut Option<Carrier>,
    handed_over: bool,
}

impl<'a> Carrying<'a> {
    /// The guest stands still.
    pub fn begin(carrier: &'a mut Option<Carrier>) -> Carrying<'a> {
        if let Some(begin) = carrier.as_ref().and_then(|carrier| carrier.begin.as_ref()) {
            // If the thread is gone, it has panicked, and joining it says so.
            begin.send(()).ok();
        }
        Carrying { carrier, handed_over: false }
    }

    /// The guest was given up: whatever reaches this host is the destination's.
    pub fn handed_over(&mut self) {
        self.handed_over = true;
        self.enter(Stage::HandedOver);
    }

    /// The destination did not start the guest, which runs on here: it has back what was kept for it.
    pub fn taken_back(mut self) {
        self.enter(Stage::CalledOff);
        self.handed_over = false;
    }

    /// The destination has told the network that the guest is there.
    pub fn announced(&mut self) {
        self.enter(Stage::Announced);
    }

    fn enter(&self, stage: Stage) {
        if let Some(carrier) = &*self.carrier {
            carrier.stage.store(stage as u8, Ordering::Release);
        }
    }
}

impl Drop for Carrying<'_> {
    fn drop(&mut self) {
        if !self.handed_over {
            drop(self.carrier.take());
        }
    }
}

struct Cargo {
    wire: Box<dyn Wire>,
    network: Arc<dyn Network>,
    stage: Arc<AtomicU8>,
    /// Frames that were sent, for a guest that may run on here.
    kept: Vec<(u16, Vec<u8>)>,
    kept_bytes: usize,
    carried: u64,
}

impl Cargo {
    /// Carries frames until the network has learned, or the guest runs on here. Returns how many were carried.
    fn carry(&mut self) -> u64 {
        let mut buffer = vec![0; NETWORK_HEADER_BYTES + MAX_NETWORK_FRAME_BYTES];
        let (mut handed_over, mut announced) = (None::<Instant>, None::<Instant>);
        let mut link_holds = true;
        loop {
            let stage = self.stage();
            match stage {
                Stage::CalledOff => return self.give_back(),
                Stage::Paused => {}
                Stage::HandedOver => {
                    // A cancel comes too late now, but the destination may still say that it did not start the guest.
                    self.wire.ignore_interrupt();
                    handed_over.get_or_insert_with(Instant::now);
                }
                Stage::Announced => self.kept.clear(),
            }
            if link_holds && let Err(error) = self.send_waiting(&mut buffer, stage) {
                // A destination that is gone, or a guest that runs again: what follows is said by whoever called.
                tracing::debug!(
                    error = in_words(&*error),
                    carried = self.carried,
                    "no more frames are carried"
                );
                link_holds = false;
            }
            if stage == Stage::Announced {
                announced.get_or_insert_with(Instant::now);
            }
            let learning_time = self.network.learning_time();
            let has_learned = announced.is_some_and(|since| since.elapsed() >= learning_time);
            // Counted from the handover, however long the pause was before it.
            let in_doubt =
                announced.is_none() && handed_over.is_some_and(|since| since.elapsed() >= IN_DOUBT_LIMIT);
            if in_doubt {
                // What comes now waits in the host's queue: nobody knows where the guest is.
                link_holds = false;
            }
            if has_learned || (!link_holds && stage == Stage::Announced) {
                // A destination that is gone needs no last word.
                self.wire.send(NetworkHeader::end().as_bytes()).ok();
                return self.carried;
            }
            let pause = TICK.min(learning_time);
            if !link_holds || (stage != Stage::Announced && !self.has_room()) {
                // What waits in the host's queue would not let it wait.
                std::thread::sleep(pause);
            } else {
                self.network.wait(pause);
            }
        }
    }

    fn stage(&self) -> Stage {
        Stage::of(self.stage.load(Ordering::Acquire))
    }

    /// Whether another frame may be kept for a guest that may run on here. The destination has as much room for one that does
    /// not run yet; what comes after that waits in this host's queue, until the guest takes frames there.
    fn has_room(&self) -> bool {
        self.kept.len() < WAITING_FRAMES && self.kept_bytes + MAX_NETWORK_FRAME_BYTES <= WAITING_FRAME_BYTES
    }

    /// Sends all frames that wait.
    fn send_waiting(&mut self, buffer: &mut [u8], stage: Stage) -> Result<(), Box<dyn Error>> {
        while stage == Stage::Announced || self.has_room() {
            let Some((port, len)) = self.network.take_frame(&mut buffer[NETWORK_HEADER_BYTES..])? else {
                break;
            };
            buffer[..NETWORK_HEADER_BYTES].copy_from_slice(NetworkHeader::new(port, len).as_bytes());
            let message = &buffer[..NETWORK_HEADER_BYTES + len];
            if stage != Stage::Announced {
                self.kept.push((port, message[NETWORK_HEADER_BYTES..].to_vec()));
                self.kept_bytes += len;
            }
            self.wire.send(message)?;
            self.carried += 1;
        }
        Ok(())
    }

    /// The guest runs on here: it gets what was meant for it.
    fn give_back(&mut self) -> u64 {
        let give = |(port, frame): (u16, Vec<u8>)| self.network.inject(port, &frame);
        let given: Result<(), VmError> = self.kept.drain(..).try_for_each(give);
        if let Err(error) = given {
            tracing::warn!(error = in_words(&error), "frames that came during the pause were lost");
        }
        0
    }
}

#[cfg(test)]
mod tests;
