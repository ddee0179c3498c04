//! The seam: what the engine asks of a machine, and all it knows of one.
//!
//! [`crate::sim`] implements it without KVM, `kvm_vm` over Ferry's own machine.

use std::{error::Error, os::fd::BorrowedFd, sync::Arc, time::Duration};

use thiserror::Error;

pub use self::announcer::Announcer;
pub(crate) use self::{ahead::FramesAhead, console::ConsoleToGo};
pub use self::{
    console::{CONSOLE_BYTES, ConsoleHistory, KeptConsole},
    held::HeldVm,
    name::{MAX_NAME_BYTES, is_name},
    paused::{PausedVm, RelinquishedVm},
};
use crate::pages::{GuestPages, PageNumber, PageRun, PageSet};

mod ahead;
mod announcer;
mod console;
mod held;
mod name;
mod paused;

/// A machine could not do what the engine asked.
#[derive(Debug, Error)]
#[error("{operation}")]
pub struct VmError {
    /// What was asked.
    pub operation: &'static str,
    /// What the machine said.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl VmError {
    /// For `map_err`: names the operation.
    pub fn new<E: Into<Box<dyn Error + Send + Sync>>>(operation: &'static str) -> impl FnOnce(E) -> VmError {
        move |source| VmError { operation, source: source.into() }
    }
}

/// Why a guest of which pages are missing is neither run nor moved.
pub const PAGES_MISSING: &str = "pages of its memory never arrived";

/// What a destination must know to make a machine ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDescription {
    /// The name its user gave it.
    pub name: String,
    /// Which kind of machine: only a destination that has the same kind can take it.
    pub kind: String,
    /// Pages of RAM.
    pub page_count: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// What was booted in it, in its user's words: `pulse`, or the kernel's file name. To be shown, and nothing else.
    pub image: Option<String>,
    /// Its user has paused it: it stands still at the destination, too, until it is resumed there.
    pub paused: bool,
    /// Whatever else that kind of machine needs; the engine carries it and never looks.
    pub machine: Vec<u8>,
}

/// A machine at the source: it runs until it is paused.
pub trait SourceVm: Send {
    /// What a destination must know.
    fn describe(&self) -> VmDescription;

    /// Its memory: a handle of its own, so that requests are served while the VM is borrowed.
    fn pages(&self) -> Arc<dyn GuestPages>;

    /// From here on every write is logged, and every page counts as dirty once.
    ///
    /// # Errors
    /// The log is off then.
    fn start_dirty_log(&mut self) -> Result<(), VmError>;

    /// Moves the log into `dirty`: what it says is added there and is gone from the log. A page
    /// written after this call is in the log again, so copy pages after it, never before.
    ///
    /// # Errors
    /// What the log held may be lost then: the migration cannot go on.
    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), VmError>;

    /// Ends the log; doing it twice is fine.
    ///
    /// # Errors
    /// The log may be on still.
    fn stop_dirty_log(&mut self) -> Result<(), VmError>;

    /// Does what a pause would have to wait for otherwise, as far as it can while the guest runs.
    ///
    /// # Errors
    /// If the guest cannot be moved as it is.
    fn before_pause(&mut self) -> Result<(), VmError>;

    /// vCPUs stop, then devices drain. On an error the VM runs on.
    ///
    /// # Errors
    /// If it cannot stand still.
    fn pause(&mut self) -> Result<(), VmError>;

    /// Runs on.
    ///
    /// # Errors
    /// If it cannot.
    fn resume(&mut self) -> Result<(), VmError>;

    /// Its network on this host, if it has one: a handle of its own, for when the guest was given up.
    fn network(&self) -> Option<Arc<dyn Network>>;

    /// What it wrote to its console, if that is kept: a handle of its own.
    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        None
    }

    /// All state but memory. Paused only. May dirty memory: take the dirty pages after it.
    ///
    /// # Errors
    /// Nothing has changed then.
    fn save_state(&mut self) -> Result<Vec<u8>, VmError>;

    /// Lets go of what only one machine may hold, such as its disks. Paused only; [`SourceVm::resume`] takes it back.
    ///
    /// # Errors
    /// If something of the guest's would be lost by it.
    fn release(&mut self) -> Result<(), VmError>;

    /// The pages that loading the state touches, and the guest when it runs on, as of the last saved state
    /// and as far as the machine can tell. Where pages are missing at the start, these are not.
    fn first_pages(&self) -> Vec<PageNumber>;
}

/// A machine at the destination: made, and waiting to be filled and started.
pub trait DestinationVm: Send {
    /// Its memory, all zeros at first.
    fn pages(&self) -> Arc<dyn GuestPages>;

    /// Backs all memory now, so that pages are received into memory that is there; ends early, with only some of it
    /// backed, once `is_wanted` says no.
    ///
    /// # Errors
    /// If there is not enough.
    fn populate(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError>;

    /// As [`DestinationVm::populate`], for a VM that comes with pages missing: backs where those are received, if the
    /// machine has such a place. What is backed there is not needed a second time in the guest.
    ///
    /// # Errors
    /// As there.
    fn populate_landing(&mut self, is_wanted: &(dyn Fn() -> bool + Sync)) -> Result<(), VmError>;

    /// Drops whatever memory holds: it is as at the beginning.
    ///
    /// # Errors
    /// Memory may hold anything then.
    fn discard(&mut self) -> Result<(), VmError>;

    /// What missing pages are served with. None is missing before they are [watched](MissingPages::watch).
    ///
    /// # Errors
    /// If this host does not permit it.
    fn prepare_missing(&mut self) -> Result<Arc<dyn MissingPages>, VmError>;

    /// Loads what [`SourceVm::save_state`] saved. May touch missing pages. May be done more than
    /// once before the start; the last one counts.
    ///
    /// # Errors
    /// If the state does not fit this machine; nothing runs then.
    fn load_state(&mut self, state: &[u8]) -> Result<(), VmError>;

    /// Its network on this host, if it has one.
    fn network(&self) -> Option<Arc<dyn Network>>;

    /// Where what the guest wrote to its console before is to be seen, if anywhere.
    fn console(&self) -> Option<Arc<dyn ConsoleHistory>> {
        None
    }

    /// Takes what only one machine may hold, which the source has let go of. It is given up again with the machine.
    ///
    /// # Errors
    /// Who has it, if that is known.
    fn claim(&mut self) -> Result<(), VmError>;

    /// Runs, with what was claimed.
    ///
    /// # Errors
    /// It does not run then.
    fn start(&mut self) -> Result<(), VmError>;

    /// As [`DestinationVm::start`], for a guest that its user has paused: all but running, which [`SourceVm::resume`]
    /// does when its user wants it.
    ///
    /// # Errors
    /// It is not here then.
    fn hold(&mut self) -> Result<(), VmError>;
}

/// Pages that are not there yet, and those who wait for them.
pub trait MissingPages: Send + Sync {
    /// From here on these pages are not there, whatever memory held for them: access to one waits until it is installed.
    /// All others keep what they hold; one that holds nothing may be waited for, too.
    ///
    /// # Errors
    /// Memory may hold anything then.
    fn watch(&self, missing: &PageSet) -> Result<(), VmError>;

    /// Readable when somebody waits.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Adds the pages that somebody began to wait for, without blocking. A page may come twice.
    ///
    /// # Errors
    /// Whatever the system says.
    fn next_faults(&self, faults: &mut Vec<PageNumber>) -> Result<(), VmError>;

    /// Puts pages in place and wakes who waits for them. Returns how many were not there before;
    /// the others keep what they hold.
    ///
    /// # Errors
    /// Whatever the system says.
    fn install(&self, first: PageNumber, bytes: &[u8]) -> Result<u64, VmError>;

    /// As [`MissingPages::install`], with zeros.
    ///
    /// # Errors
    /// Whatever the system says.
    fn install_zeros(&self, run: PageRun) -> Result<u64, VmError>;

    /// Memory to receive these missing pages in, each at its own number, before they are installed from there; nothing
    /// where they are better received in a buffer. It is theirs until it is [left](MissingPages::leave_landing).
    fn landing_area(&self, runs: &[PageRun]) -> Option<&dyn GuestPages>;

    /// As [`MissingPages::install`], from the landing area, whose pages hold anything afterwards.
    ///
    /// # Errors
    /// Whatever the system says.
    fn install_landed(&self, run: PageRun) -> Result<u64, VmError>;

    /// These pages were installed from the landing area, or will not be.
    fn leave_landing(&self, runs: &[PageRun]);

    /// Nothing is missing any more: nobody will wait again.
    ///
    /// # Errors
    /// Whatever the system says.
    fn unwatch(&self) -> Result<(), VmError>;
}

/// How many frames a machine takes for a guest that does not run, at the least, and how many bytes of them.
pub const WAITING_FRAMES: usize = 64 << 10;
/// As [`WAITING_FRAMES`].
pub const WAITING_FRAME_BYTES: usize = 8 << 20;

/// A guest's network on one host. Frames are bytes to the engine.
///
/// What the guest sends is sent by the side that took it from the guest, before the pause is complete. What is sent to
/// the guest waits in the host's queue while the guest stands still.
pub trait Network: Send + Sync {
    /// Takes the next frame for a guest that stands still, into `frame`. Returns the guest's port and the frame's length;
    /// `None` if no frame waits.
    ///
    /// # Errors
    /// Whatever the system says; and that the guest runs, for then its frames are its own.
    fn take_frame(&self, frame: &mut [u8]) -> Result<Option<(u16, usize)>, VmError>;

    /// Waits until a frame has come, at most this long.
    fn wait(&self, at_most: Duration);

    /// Hands a frame to the guest, after those handed to it before and ahead of any that comes to this host. Waits in
    /// the machine while the guest does not run.
    ///
    /// # Errors
    /// If the guest has no such port.
    fn inject(&self, port: u16, frame: &[u8]) -> Result<(), VmError>;

    /// Tells the network that the guest is on this host.
    ///
    /// # Errors
    /// Whatever the system says.
    fn announce(&self) -> Result<(), VmError>;

    /// How long frames may still come to the old place after the announcement.
    fn learning_time(&self) -> Duration;

    /// Has the guest's frames handled ahead of what else this host does, or no more. A machine that cannot does as
    /// before.
    fn go_ahead(&self, _ahead: bool) {}
}

/// A host that can make machines for VMs that want to come.
pub trait DestinationHost {
    /// The machines it makes.
    type Vm: DestinationVm;

    /// Makes a machine, complete and empty.
    ///
    /// # Errors
    /// In words for the user at the source: what does not fit, and what to do.
    fn create(&mut self, vm: &VmDescription) -> Result<Self::Vm, VmError>;

    /// Whether that VM could run here with pages missing.
    ///
    /// # Errors
    /// In words for the user: what is not permitted, and how to permit it.
    fn check_missing_pages(&self, vm: &VmDescription) -> Result<(), VmError>;
}
