//! A userfaultfd together with what it serves, and the kernel's messages.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general::{UFFD_EVENT_PAGEFAULT, UFFD_PAGEFAULT_FLAG_WRITE};

use super::PageFault;
use super::uffd::{MESSAGE_BYTES, Uffd};
use crate::config::HUGE_PAGE_BYTES;
use crate::memory::PAGE_BYTES;

/// A userfaultfd and the host addresses registered with it.
#[derive(Debug)]
pub(crate) struct Userfault {
    uffd: Uffd,
    range: Range<u64>,
    /// Blocks of which single pages are present: one flag for each 2 MiB.
    begun: Box<[AtomicBool]>,
}

impl Userfault {
    pub(super) fn new(uffd: Uffd, range: Range<u64>) -> Self {
        let blocks = (range.end - range.start).div_ceil(HUGE_PAGE_BYTES);
        Userfault { uffd, range, begun: (0..blocks).map(|_| AtomicBool::new(false)).collect() }
    }

    /// From here the first access to any absent page waits for an answer.
    pub(super) fn register(&self) -> io::Result<()> {
        self.uffd.register(self.range.clone())
    }

    /// Notes that single pages are present from `first_page` on, for `bytes`.
    pub(super) fn begin(&self, first_page: u64, bytes: u64) {
        let start = first_page.saturating_mul(PAGE_BYTES);
        let end = start.saturating_add(bytes.saturating_sub(1));
        for block in start / HUGE_PAGE_BYTES..=end / HUGE_PAGE_BYTES {
            if let Some(flag) = self.begun.get(block as usize) {
                // Only a hint on the faster way; both ways are right.
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether the block at `first_page` can be moved whole: no single page of it is present, and the kernel can.
    pub(super) fn may_move(&self, first_page: u64) -> bool {
        let block = first_page * PAGE_BYTES / HUGE_PAGE_BYTES;
        self.uffd.can_move && self.begun.get(block as usize).is_some_and(|flag| !flag.load(Ordering::Relaxed))
    }

    pub(super) fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    /// Ends the serving and wakes all who wait; pages still missing read as zeros from here.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.uffd.unregister(self.range.clone())
    }
}

/// Reads one message of the kernel (include/uapi/linux/userfaultfd.h, struct uffd_msg): the event in byte 0, and for a
/// page fault its flags in bytes 8..16 and the address in 16..24. Other events are not asked for.
pub(super) fn parse(message: &[u8], base: u64) -> Option<PageFault> {
    let message: &[u8; MESSAGE_BYTES] = message.try_into().ok()?;
    if u32::from(message[0]) != UFFD_EVENT_PAGEFAULT {
        return None;
    }
    let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().expect("8 of 32 bytes"));
    let page = word(16).checked_sub(base)? / PAGE_BYTES;
    Some(PageFault { page, write: word(8) & u64::from(UFFD_PAGEFAULT_FLAG_WRITE) != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_by_its_page() {
        let mut message = [0u8; MESSAGE_BYTES];
        message[0] = UFFD_EVENT_PAGEFAULT as u8;
        message[8] = UFFD_PAGEFAULT_FLAG_WRITE as u8;
        message[16..24].copy_from_slice(&(0x10_0000u64 + 5 * PAGE_BYTES + 17).to_ne_bytes());
        assert_eq!(parse(&message, 0x10_0000), Some(PageFault { page: 5, write: true }));
        message[0] = 0;
        assert_eq!(parse(&message, 0x10_0000), None);
    }
}
