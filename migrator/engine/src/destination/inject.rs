//! The guest's network at the destination: frames that were carried over reach the guest first, and the network is
//! told where the guest is now.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use crate::{
    protocol::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader},
    report::in_words,
    transport::{HangUp, Wire},
    urgent::{Priority, set_priority},
    vm::{Announcer, Network},
};

/// How long a source may take to carry over what comes for a guest that has left it.
const LAST_FRAME_LIMIT: Duration = Duration::from_secs(5);

/// Takes in what is carried over, and announces the guest. Its thread ends with the link, or with this.
pub(super) struct Injector {
    announcer: Announcer,
    link: Option<HangUp>,
    /// Its other end is the thread's.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Injector {
    /// Begins to take frames in. They wait in the machine until the guest runs.
    pub fn spawn(wire: Box<dyn Wire>, network: Arc<dyn Network>) -> io::Result<Injector> {
        let link = HangUp::of(&*wire)?;
        let (ends, announcer) = (link.clone(), Announcer::spawn(network.clone())?);
        let (ending, ended) = channel::<()>();
        let thread = Builder::new().name("injector".to_owned()).spawn(move || {
            set_priority(Priority::Frames);
            let _ends = (ends, ending);
            if let Err(error) = inject(wire, &*network) {
                tracing::warn!(error = in_words(&*error), "frames are carried over no more");
            }
        })?;
        Ok(Injector { announcer, link: Some(link), ended, thread: Some(thread) })
    }

    /// The guest runs here.
    pub fn announce(&self) {
        self.announcer.announce();
    }

    /// Takes in what still comes, until the source says that it was all.
    pub fn finish(self) {
        // Ended or not, this is dropped now.
        self.ended.recv_timeout(LAST_FRAME_LIMIT).ok();
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        drop(self.link.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            thread.join().ok();
        }
    }
}

pub(super) fn inject(
    mut wire: Box<dyn Wire>,
    network: &dyn Network,
) -> Result<(), Box<dyn std::error::Error>> {
    // Whether the guest comes here or not, the source ends this link.
    wire.ignore_interrupt();
    wire.set_patience(None);
    let mut buffer = vec![0; MAX_NETWORK_FRAME_BYTES];
    let mut header = [0; NETWORK_HEADER_BYTES];
    loop {
        match wire.receive(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            received => received?,
        }
        let Some((port, len)) = NetworkHeader::decode(header)? else { return Ok(()) };
        let frame = &mut buffer[..len];
        wire.receive(frame)?;
        network.inject(port, frame)?;
    }
}
