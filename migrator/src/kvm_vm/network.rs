//! The network cards of a KVM machine.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::{InjectError, NetPort};

use crate::vm::{Network, VmError};

/// The machine's network cards, by their numbers.
pub(super) struct KvmNetwork(pub(super) Vec<NetPort>);

/// A bridge learns from the first frame, a chain of switches from as many; what was under way then has come after this.
const LEARNING_TIME: Duration = Duration::from_millis(50);

impl Network for KvmNetwork {
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        for (number, port) in self.0.iter().enumerate() {
            let taken = port.take_frame(frame).map_err(VmError::new("take a frame from the tap"))?;
            if let Some(len) = taken {
                return Ok(Some((number as u16, len)));
            }
        }
        Ok(None)
    }

    fn wait(&self, at_most: Duration) {
        let mut fds: Vec<_> = self.0.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: at_most.as_nanos().min(999_999_999) as i64 };
        // Whatever it says, whoever waits looks for frames next.
        poll(&mut fds, Some(&timeout)).ok();
    }

    fn inject(&self, port: u16, frame: &[u8]) -> Result<(), VmError> {
        let inject = "hand a frame to the guest";
        let card = self.0.get(usize::from(port)).ok_or_else(|| {
            let source = format!("it has no network card {port}");
            VmError { operation: inject, source: source.into() }
        })?;
        // A guest that takes no frames loses them as it would from a wire.
        card.inject(frame).or_else(|error| match error {
            InjectError::Full => Ok(()),
            error @ InjectError::Length { .. } => Err(VmError::new(inject)(error)),
        })
    }

    fn announce(&self) -> Result<(), VmError> {
        self.0.iter().try_for_each(NetPort::announce).map_err(VmError::new("announce the guest's address"))
    }

    fn learning_time(&self) -> Duration {
        LEARNING_TIME
    }
}
