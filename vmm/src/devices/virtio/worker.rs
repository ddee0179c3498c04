//! The thread of a device: works while there is work and the machine runs, else waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_sys_util::eventfd::EventFd;

use super::precedence::Precedence;
use super::transport::{Turn, VirtioDevice};

/// Starts the thread of `device`, named `name`; it waits until the device is opened.
pub(super) fn spawn(device: Arc<VirtioDevice>, name: String) -> io::Result<JoinHandle<()>> {
    let source = device.source();
    std::thread::Builder::new().name(name).spawn(move || run(&device, source.as_ref()))
}

fn run(device: &VirtioDevice, source: Option<&OwnedFd>) {
    let mut precedence = Precedence::new(device.precedence());
    loop {
        let turn = device.turn();
        precedence.settle();
        match turn {
            // The lock is free for a moment: whoever waits for it gets its chance.
            Turn::Again => std::thread::yield_now(),
            Turn::Wait { kick, source: wanted } => wait(device, kick, source.filter(|_| wanted)),
            Turn::Leave => return,
        }
    }
}

/// Waits until one of those named is readable, and takes the kicks.
fn wait(device: &VirtioDevice, kick: bool, source: Option<&OwnedFd>) {
    let control = PollFd::from_borrowed_fd(fd_of(device.control()), PollFlags::IN);
    let kicked = PollFd::from_borrowed_fd(fd_of(device.kick()), PollFlags::IN);
    let mut all = [control, kicked.clone(), kicked];
    let mut count = 1 + usize::from(kick);
    if let Some(source) = source {
        all[count] = PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN);
        count += 1;
    }
    // An interrupted or failed wait means the same as a successful one: look what there is to do.
    if let Err(error) = poll(&mut all[..count], None)
        && error != rustix::io::Errno::INTR
    {
        tracing::error!(%error, "a virtio device's worker cannot wait");
        std::thread::yield_now();
    }
    // Taken before the queues are looked at: a kick that comes after stays. Most reads find nothing, so only what is
    // readable is read.
    if all[0].revents().contains(PollFlags::IN) {
        let _ = device.control().read();
    }
    if kick && all[1].revents().contains(PollFlags::IN) {
        let _ = device.kick().read();
    }
}

fn fd_of(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event`, which is borrowed for as long.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
