//! The network cards of a KVM machine.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm::{InjectError, MAX_WAITING_BYTES, MAX_WAITING_FRAMES, NetPort};

use engine::vm::{Network, VmError, WAITING_FRAME_BYTES, WAITING_FRAMES};

const _: () = assert!(MAX_WAITING_FRAMES >= WAITING_FRAMES && MAX_WAITING_BYTES >= WAITING_FRAME_BYTES);

/// How long room is waited for in all. A guest that runs and takes its frames has some within milliseconds.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
const ROOM_TICK: Duration = Duration::from_millis(1);

/// The machine's network cards, by their numbers.
pub(super) struct KvmNetwork {
    ports: Vec<NetPort>,
    /// It was seen not to take its frames: they are waited with no more.
    takes_none: AtomicBool,
}

impl KvmNetwork {
    pub(super) fn new(ports: Vec<NetPort>) -> KvmNetwork {
        KvmNetwork { ports, takes_none: AtomicBool::new(false) }
    }

    /// Offers a frame until there is room for it. A guest that takes none loses it, as it would from a wire.
    fn inject_when_there_is_room(
        &self,
        mut inject: impl FnMut() -> Result<(), InjectError>,
    ) -> Result<(), InjectError> {
        let begin = Instant::now();
        loop {
            match inject() {
                Err(InjectError::Full) if self.takes_none.load(Ordering::Relaxed) => return Ok(()),
                Err(InjectError::Full) if begin.elapsed() < ROOM_PATIENCE => std::thread::sleep(ROOM_TICK),
                Err(InjectError::Full) => {
                    tracing::warn!("the guest takes no frames: those that were carried over are lost");
                    self.takes_none.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
    }
}

/// A bridge learns from the first frame, a chain of switches from as many; what was under way then has come after this.
const LEARNING_TIME: Duration = Duration::from_millis(50);

impl Network for KvmNetwork {
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        for (number, port) in self.ports.iter().enumerate() {
            let taken = port.take_frame(frame).map_err(VmError::new("take a frame from the tap"))?;
            if let Some(len) = taken {
                return Ok(Some((number as u16, len)));
            }
        }
        Ok(None)
    }

    fn wait(&self, at_most: Duration) {
        let mut fds: Vec<_> = self.ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: at_most.as_nanos().min(999_999_999) as i64 };
        // Whatever it says, whoever waits looks for frames next.
        poll(&mut fds, Some(&timeout)).ok();
    }

    fn inject(&self, port: u16, frame: &[u8]) -> Result<(), VmError> {
        let inject = "hand a frame to the guest";
        let card = self.ports.get(usize::from(port)).ok_or_else(|| {
            let source = format!("it has no network card {port}");
            VmError { operation: inject, source: source.into() }
        })?;
        self.inject_when_there_is_room(|| card.inject(frame)).map_err(VmError::new(inject))
    }

    fn announce(&self) -> Result<(), VmError> {
        self.ports
            .iter()
            .try_for_each(NetPort::announce)
            .map_err(VmError::new("announce the guest's address"))
    }

    fn learning_time(&self) -> Duration {
        LEARNING_TIME
    }

    fn go_ahead(&self, ahead: bool) {
        self.ports.iter().for_each(|port| port.go_ahead(ahead));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_waits_for_room_and_those_of_a_guest_that_takes_none_do_not_each() {
        let network = KvmNetwork::new(Vec::new());
        let mut offered = 0;
        let taken = network.inject_when_there_is_room(|| {
            offered += 1;
            if offered < 5 { Err(InjectError::Full) } else { Ok(()) }
        });
        assert_eq!((taken, offered), (Ok(()), 5), "not lost");
        let length = network.inject_when_there_is_room(|| Err(InjectError::Length { bytes: 1 }));
        assert_eq!(length, Err(InjectError::Length { bytes: 1 }));

        assert_eq!(network.inject_when_there_is_room(|| Err(InjectError::Full)), Ok(()));
        let mut offered = 0;
        let lost = network.inject_when_there_is_room(|| {
            offered += 1;
            Err(InjectError::Full)
        });
        assert_eq!((lost, offered), (Ok(()), 1), "it was waited for once");
    }
}
