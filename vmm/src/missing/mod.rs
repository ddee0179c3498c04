//! Missing pages: memory whose bytes come later.
//!
//! ```text
//! prepare ──► watch: these pages are missing ──► install / install_zeros, until none is ──► close
//!                    │                              ▲
//!          guest touches one: its vCPU waits ── read_faults
//! ```
//! Missing pages are emptied after memory is registered: one look at it before maps zeros for up to 512 pages, and a page
//! that came before and was written again since holds a stale copy. Either would count as present.
//!
//! Built on userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst), which must also serve faults that the kernel
//! takes on the guest's behalf: those are KVM's. A page that is present is never overwritten: of two who install one
//! page the second is told that it was there already, and goes on.
//!
//! Dropping a [`MissingPages`] does not end the waiting: whoever waits goes on waiting, because the alternative is a
//! guest that silently reads zeros. Only [`MissingPages::close`] and the end of the machine end it.

mod uffd;

use std::io;
use std::iter;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use thiserror::Error;

use self::uffd::{MESSAGE_BYTES, Uffd};
use crate::memory::{AdviseError, GuestMemory, PAGE_BYTES};

pub use self::landing::LandingArea;
use self::landing::PAGES_PER_BLOCK;
pub(crate) use self::served::Userfault;

mod landing;
mod served;
#[cfg(test)]
mod tests;

/// Bytes that one call copies.
const COPIED_AT_ONCE: usize = 256 << 10;
/// Faults read by one call: 2 KiB of stack.
const FAULTS_PER_READ: usize = 64;

/// Missing pages cannot be served.
#[derive(Debug, Error)]
pub enum MissingPagesError {
    /// The kernel has no userfaultfd.
    #[error("this kernel has no userfaultfd (CONFIG_USERFAULTFD)")]
    Absent,
    /// The user may not serve the kernel's faults.
    #[error(
        "userfaultfd is not permitted: run as root, give the program CAP_SYS_PTRACE, or give this user read and write \
         rights on /dev/userfaultfd"
    )]
    NotPermitted,
    /// Opening it failed otherwise.
    #[error("open a userfaultfd")]
    Open(#[source] io::Error),
    /// Another `MissingPages` serves this memory.
    #[error("missing pages of this memory are served already")]
    AlreadyServed,
    /// The memory's backing cannot have missing pages.
    #[error("register guest memory for missing pages (reserved huge pages cannot have them)")]
    Register(#[source] io::Error),
    /// What memory held could not be dropped.
    #[error("empty guest memory whose pages are to be missing")]
    Empty(#[source] AdviseError),
    /// Faults could not be read.
    #[error("read page faults")]
    Read(#[source] io::Error),
    /// Pages could not be installed.
    #[error("install page {page}")]
    Install {
        /// The first page that was not installed.
        page: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Waiters could not be woken.
    #[error("wake who waits for pages {}..{}", pages.start, pages.end)]
    Wake {
        /// The pages.
        pages: Range<u64>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Serving could not be ended.
    #[error("stop serving missing pages")]
    Close(#[source] io::Error),
}

/// Somebody waits for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// Dense page index.
    pub page: u64,
    /// The access that waits is a write.
    pub write: bool,
}

/// Serves the missing pages of a machine's memory. All methods take `&self` and may be used from several threads.
#[derive(Clone, Debug)]
pub struct MissingPages {
    memory: Arc<GuestMemory>,
    userfault: Arc<Userfault>,
    area: Option<Arc<LandingArea>>,
}

impl MissingPages {
    /// Whether this process may serve missing pages at all; if not, the error says what to do.
    pub fn probe() -> Result<(), MissingPagesError> {
        open_uffd().map(drop)
    }

    /// From here every page of `memory` is missing, as [`watch`](Self::watch) has it.
    pub fn open(memory: &Arc<GuestMemory>) -> Result<MissingPages, MissingPagesError> {
        let missing = MissingPages::prepare(memory)?;
        let watched = missing.watch(iter::once(0..memory.page_count()));
        if watched.is_err() {
            memory.userfault.lock().expect("no one panics with this lock").take();
        }
        watched.map(|()| missing)
    }

    /// Opens what missing pages of `memory` are served with. None is missing before they are [watched](Self::watch).
    pub fn prepare(memory: &Arc<GuestMemory>) -> Result<MissingPages, MissingPagesError> {
        let mut serving = memory.userfault.lock().expect("no one panics with this lock");
        if serving.is_some() {
            return Err(MissingPagesError::AlreadyServed);
        }
        let uffd = open_uffd()?;
        let base = memory.as_ptr() as u64;
        let range = base..base + memory.size_bytes();
        let userfault = Arc::new(Userfault::new(uffd, range));
        *serving = Some(Arc::clone(&userfault));
        drop(serving);
        Ok(MissingPages { memory: Arc::clone(memory), userfault, area: None })
    }

    /// From here the pages of `missing`, ranges in ascending order, are missing, whatever they held: access to one waits
    /// until it is installed. All others keep what they hold; one that holds nothing is waited for as well.
    /// [`GuestMemory::discard`] makes installed pages missing again.
    pub fn watch(&self, missing: impl IntoIterator<Item = Range<u64>>) -> Result<(), MissingPagesError> {
        self.userfault.register().map_err(MissingPagesError::Register)?;
        // Only now: what anybody touches from here on is waited for.
        let mut present_from = 0;
        let pages = self.memory.page_count();
        for range in missing.into_iter().chain(iter::once(pages..pages)) {
            if present_from < range.start {
                self.userfault.begin(present_from, (range.start - present_from) * PAGE_BYTES);
            }
            present_from = range.end;
            self.memory.discard(range).map_err(MissingPagesError::Empty)?;
        }
        Ok(())
    }

    /// How many pages the memory has, missing or not.
    pub fn page_count(&self) -> u64 {
        self.memory.page_count()
    }

    /// Whole blocks are received in `area` from here on, which was made for the same memory.
    pub fn with_landing_area(self, area: LandingArea) -> MissingPages {
        MissingPages { area: Some(Arc::new(area)), ..self }
    }

    /// Where whole blocks are received.
    pub fn landing_area(&self) -> Option<&LandingArea> {
        self.area.as_deref()
    }

    /// Takes the place of `pages` in the landing area, to receive them there. `false` if they are not one whole block of 2
    /// MiB, or it could not be moved from there (Linux 6.8), or is taken. To be [left](Self::leave).
    pub fn take(&self, pages: &Range<u64>) -> bool {
        let is_block =
            pages.start.is_multiple_of(PAGES_PER_BLOCK) && pages.end == pages.start + PAGES_PER_BLOCK;
        let Some(area) = self.area.as_ref().filter(|_| is_block) else { return false };
        self.userfault.may_move(pages.start) && area.take(pages.start)
    }

    /// Leaves the place of `pages` in the landing area, which were installed from there or will not be.
    pub fn leave(&self, pages: &Range<u64>) {
        if let Some(area) = &self.area {
            area.leave(pages);
        }
    }

    /// Takes the faults that wait to be read, at most 64, and appends them to `into`. Returns how many those were: 0 if
    /// there are none, as it never blocks; poll [`as_fd`](Self::as_fd) for more. One page may be named several times.
    pub fn read_faults(&self, into: &mut Vec<PageFault>) -> Result<usize, MissingPagesError> {
        let mut buffer = [0u8; FAULTS_PER_READ * MESSAGE_BYTES];
        let bytes = loop {
            match rustix::io::read(self.userfault.uffd(), &mut buffer) {
                Ok(bytes) => break bytes,
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(MissingPagesError::Read(error.into())),
            }
        };
        let base = self.memory.as_ptr() as u64;
        let before = into.len();
        into.extend(
            buffer[..bytes].chunks_exact(MESSAGE_BYTES).filter_map(|message| served::parse(message, base)),
        );
        Ok(into.len() - before)
    }

    /// Installs `bytes` (whole pages) from `first_page` on and wakes who waits for them. Pages that are present are left
    /// alone: being there already is a normal answer when a fault and a push race. Returns the pages newly installed.
    pub fn install(&self, first_page: u64, bytes: &[u8]) -> Result<u64, MissingPagesError> {
        let length = bytes.len() as u64;
        assert!(length.is_multiple_of(PAGE_BYTES), "{length} bytes are not whole pages");
        self.userfault.begin(first_page, length);
        let installed = self.advance(first_page, length, |offset, to| {
            // In parts, for who waits for a single page meanwhile.
            let part = &bytes[offset as usize..];
            self.userfault.uffd().copy(to, &part[..part.len().min(COPIED_AT_ONCE)])
        })?;
        self.give_back(first_page, length);
        Ok(installed)
    }

    /// As [`install`](Self::install), with zeros.
    pub fn install_zeros(&self, first_page: u64, pages: u64) -> Result<u64, MissingPagesError> {
        let length = pages * PAGE_BYTES;
        self.userfault.begin(first_page, length);
        let zero = |offset, to| self.userfault.uffd().zero(to..to + length - offset);
        let installed = self.advance(first_page, length, zero)?;
        self.give_back(first_page, length);
        Ok(installed)
    }

    /// What the landing area holds for blocks of which single pages were just installed is of no use any more.
    fn give_back(&self, first_page: u64, bytes: u64) {
        if let Some(area) = &self.area {
            area.give_back(&(first_page..first_page + bytes / PAGE_BYTES));
        }
    }

    /// Installs `pages` from where they were received in the landing area, and wakes who waits for them. Their blocks were
    /// [taken](Self::take) and not left yet. Pages that are present are left alone. A whole block is moved if none of its
    /// pages is present; all else is copied. Returns the pages newly installed.
    pub fn install_landed(&self, pages: Range<u64>) -> Result<u64, MissingPagesError> {
        let Some(area) = &self.area else { return Ok(0) };
        let mut installed = 0;
        for part in landing::in_blocks(pages) {
            let is_block = part.end - part.start == PAGES_PER_BLOCK;
            installed += if is_block && self.userfault.may_move(part.start) {
                self.move_block(part.start, area)?
            } else {
                // SAFETY: the caller received these pages and is done with them: nobody writes there any more, but for
                // a second copy of the same bytes.
                let bytes = unsafe { area.bytes(part.clone()) };
                self.install(part.start, bytes)?
            };
        }
        Ok(installed)
    }

    fn move_block(&self, first_page: u64, area: &LandingArea) -> Result<u64, MissingPagesError> {
        let block = first_page..first_page + PAGES_PER_BLOCK;
        let from = area.as_ptr() as u64 + first_page * PAGE_BYTES;
        let length = PAGES_PER_BLOCK * PAGE_BYTES;
        self.advance(first_page, length, |offset, to| {
            // SAFETY: the area is private memory to which no Rust reference is held.
            match unsafe { self.userfault.uffd().move_pages(to, from + offset, length - offset) } {
                // A page that somebody holds on to, or a mapping that pages cannot be moved to.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINVAL)) => {
                    // SAFETY: as for what is copied in `install_landed`.
                    let bytes = unsafe { area.bytes(block.clone()) };
                    self.userfault.uffd().copy(to, &bytes[offset as usize..])
                }
                moved => moved,
            }
        })
    }

    /// Wakes who waits for `pages` without installing them; a page still missing faults again.
    pub fn wake(&self, pages: Range<u64>) -> Result<(), MissingPagesError> {
        let base = self.memory.as_ptr() as u64;
        self.userfault
            .uffd()
            .wake(base + pages.start * PAGE_BYTES..base + pages.end * PAGE_BYTES)
            .map_err(|source| MissingPagesError::Wake { pages, source })
    }

    /// Ends the serving: to be called when no page is missing any more, for a page that is reads as zeros from here.
    pub fn close(self) -> Result<(), MissingPagesError> {
        self.memory.userfault.lock().expect("no one panics with this lock").take();
        self.userfault.end().map_err(MissingPagesError::Close)
    }

    /// Calls `step(offset, host address)` until `length` bytes are installed or were there already. Returns the pages
    /// installed. Partly present ranges, EEXIST and EAGAIN are the normal course of things here.
    fn advance(
        &self,
        first_page: u64,
        length: u64,
        mut step: impl FnMut(u64, u64) -> io::Result<u64>,
    ) -> Result<u64, MissingPagesError> {
        let end = first_page.saturating_mul(PAGE_BYTES).saturating_add(length);
        assert!(end <= self.memory.size_bytes(), "{length} bytes at page {first_page} lie beyond memory");
        let start = self.memory.as_ptr() as u64 + first_page * PAGE_BYTES;
        let (mut offset, mut installed) = (0, 0);
        while offset < length {
            match step(offset, start + offset) {
                Ok(done) => {
                    offset += done;
                    installed += done / PAGE_BYTES;
                }
                Err(error) => match error.raw_os_error() {
                    // Present. Who waits for it was woken by who installed it, or faults again and finds it.
                    Some(libc::EEXIST) => offset += PAGE_BYTES,
                    // The address space is changing under it; nothing was done.
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    _ => {
                        return Err(MissingPagesError::Install {
                            page: first_page + offset / PAGE_BYTES,
                            source: error,
                        });
                    }
                },
            }
        }
        Ok(installed)
    }
}

impl AsFd for MissingPages {
    /// Readable when somebody waits for a page.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.userfault.uffd().as_fd()
    }
}

fn open_uffd() -> Result<Uffd, MissingPagesError> {
    Uffd::open().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => MissingPagesError::Absent,
        Some(libc::EPERM | libc::EACCES) => MissingPagesError::NotPermitted,
        _ => MissingPagesError::Open(error),
    })
}
