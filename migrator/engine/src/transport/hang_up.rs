//! Ending a link from outside the thread that waits on it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::net::{Shutdown, shutdown};

use super::Wire;

/// Ends a link when it, or any of its clones, is dropped: whoever waits on the link, on either side, is woken.
///
/// It keeps the link's descriptor, so the thread that uses the link has a clone, too: else the peer would not see that
/// thread end.
#[derive(Clone)]
pub(crate) struct HangUp(Arc<OwnedFd>);

impl HangUp {
    /// For a link that another thread will wait on.
    pub fn of(wire: &dyn Wire) -> io::Result<HangUp> {
        Ok(HangUp(Arc::new(wire.as_fd().try_clone_to_owned()?)))
    }

    /// Ends the link only when it is told to.
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.0.clone())
    }
}

/// A link that another thread uses.
#[derive(Clone)]
pub(crate) struct LinkHandle(Arc<OwnedFd>);

impl LinkHandle {
    /// Of a link that another thread will use.
    pub fn of(wire: &dyn Wire) -> io::Result<LinkHandle> {
        Ok(LinkHandle(Arc::new(wire.as_fd().try_clone_to_owned()?)))
    }

    /// Ends it, in both directions.
    pub fn hang_up(&self) {
        // An error means that the link has ended.
        shutdown(&*self.0, Shutdown::Both).ok();
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        // An error means that the link has ended.
        shutdown(&*self.0, Shutdown::Both).ok();
    }
}
