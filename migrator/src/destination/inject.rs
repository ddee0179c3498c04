//! The guest's network at the destination: frames that were carried over reach the guest first, and the network is
//! told where the guest is now.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::Builder,
    time::Duration,
};

use crate::{
    protocol::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader},
    report::in_words,
    transport::Wire,
    vm::Network,
};

/// A switch may miss an announcement, so it is made again after each of these.
const ANNOUNCED_AGAIN_AFTER: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(150),
    Duration::from_millis(200),
];

/// Takes in what is carried over, and announces the guest. Its threads end by themselves: with the link, and after the
/// last announcement.
pub(super) struct Injector {
    network: Arc<dyn Network>,
    announced: Sender<()>,
}

impl Injector {
    /// Begins to take frames in. They wait in the machine until the guest runs.
    pub fn spawn(wire: Box<dyn Wire>, network: Arc<dyn Network>) -> io::Result<Injector> {
        let (announced, first) = channel();
        let injects = network.clone();
        Builder::new().name("injector".to_owned()).spawn(move || {
            if let Err(error) = inject(wire, &*injects) {
                tracing::warn!(error = in_words(&*error), "frames are carried over no more");
            }
        })?;
        let announces = network.clone();
        Builder::new().name("announcer".to_owned()).spawn(move || announce_again(&*announces, &first))?;
        Ok(Injector { network, announced })
    }

    /// The guest runs here.
    pub fn announce(&self) {
        announce(&*self.network);
        // If the thread is gone, it has panicked; once is better than never.
        self.announced.send(()).ok();
    }
}

/// A network that does not hear of it learns by the guest's own frames.
fn announce(network: &dyn Network) {
    if let Err(error) = network.announce() {
        tracing::warn!(error = in_words(&error), "the guest's new place was not announced");
    }
}

fn announce_again(network: &dyn Network, first: &Receiver<()>) {
    if first.recv().is_err() {
        // It never ran here.
        return;
    }
    for pause in ANNOUNCED_AGAIN_AFTER {
        // The sender goes when the migration is over, which matters nothing here.
        match first.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
        }
        announce(network);
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
