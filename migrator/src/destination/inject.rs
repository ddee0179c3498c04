//! The guest's network at the destination: frames that were carried over reach the guest first, and the network is
//! told where the guest is now.

use std::{io, sync::Arc, thread::Builder};

use crate::{
    protocol::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader},
    report::in_words,
    transport::Wire,
    urgent::{Priority, set_priority},
    vm::{Announcer, Network},
};

/// Takes in what is carried over, and announces the guest. Its thread ends by itself, with the link.
pub(super) struct Injector {
    announcer: Announcer,
}

impl Injector {
    /// Begins to take frames in. They wait in the machine until the guest runs.
    pub fn spawn(wire: Box<dyn Wire>, network: Arc<dyn Network>) -> io::Result<Injector> {
        let injects = network.clone();
        Builder::new().name("injector".to_owned()).spawn(move || {
            set_priority(Priority::Frames);
            if let Err(error) = inject(wire, &*injects) {
                tracing::warn!(error = in_words(&*error), "frames are carried over no more");
            }
        })?;
        Ok(Injector { announcer: Announcer::spawn(network)? })
    }

    /// The guest runs here.
    pub fn announce(&self) {
        self.announcer.announce();
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
