//! Host memory before timing.
//!
//! Where the host is itself a virtual machine, memory that was never touched costs seconds a GiB the first
//! time, and so does memory that lay free for two seconds: the kernel reports it to the hypervisor, which
//! takes it back. So it is not enough to touch memory once. The harness holds as much as source and
//! destination will need, and lets go of it only in the moment in which they need it.
//!
//! What they leave of it would lie free and be reported two seconds later, and the hypervisor would take this machine's
//! processors for some tens of milliseconds to take it back: just when a client's guest is moved. So the harness takes
//! the rest again.

use std::{io, ptr};

use anyhow::{Context, Result, bail};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::facts::available_bytes;
use crate::{interrupt, units};

/// Left to the rest of the host.
const RESERVE: u64 = 256 << 20;
/// What a process needs beside the guest's memory, page tables included.
const BESIDE: u64 = 64 << 20;
const PIECE: u64 = 64 << 20;

/// Memory that is kept warm for both sides of a migration.
#[derive(Default)]
pub struct WarmMemory {
    source: Vec<Piece>,
    destination: Vec<Piece>,
}

impl WarmMemory {
    /// Whether there is enough for two guests of this size.
    ///
    /// # Errors
    /// If not, with what to do.
    pub fn check(guest_bytes: u64) -> Result<()> {
        let wanted = guest_bytes.saturating_add(BESIDE).saturating_mul(2).saturating_add(RESERVE);
        let available = available_bytes().unwrap_or(u64::MAX);
        if wanted > available {
            bail!(
                "a guest of {} needs {} here, source and destination together, and the host has {} free: choose less \
                 with --memory, or end other programs",
                units::bytes(guest_bytes),
                units::bytes(wanted),
                units::bytes(available)
            );
        }
        Ok(())
    }

    /// Touches and holds what both sides of a guest of this size will need. `progress` hears how much of how much is
    /// held.
    ///
    /// # Errors
    /// If the host has not so much, or the user interrupts.
    pub fn hold(&mut self, guest_bytes: u64, mut progress: impl FnMut(u64, u64)) -> Result<()> {
        let pieces = (guest_bytes + BESIDE).div_ceil(PIECE) as usize;
        self.source.truncate(pieces);
        self.destination.truncate(pieces);
        while self.source.len() + self.destination.len() < 2 * pieces {
            interrupt::check()?;
            let side = if self.source.len() < pieces { &mut self.source } else { &mut self.destination };
            side.push(Piece::touched(PIECE).context("warm up memory")?);
            let held = (self.source.len() + self.destination.len()) as u64;
            progress(held * PIECE, 2 * pieces as u64 * PIECE);
        }
        Ok(())
    }

    /// Lets go of the source's share: it boots now.
    pub fn release_source(&mut self) {
        self.source.clear();
    }

    /// Lets go of the destination's share: a guest comes now.
    pub fn release_destination(&mut self) {
        self.destination.clear();
    }

    /// Takes back what a process left of its share, once it has all it will need.
    ///
    /// # Errors
    /// If the host has not so much.
    pub fn take_back_rest(&mut self) -> Result<()> {
        for share in [&mut self.source, &mut self.destination] {
            if share.is_empty() {
                share.push(Piece::touched(BESIDE).context("keep memory warm")?);
            }
        }
        Ok(())
    }
}

/// Memory that is the host's own from here on, in huge pages where it has them.
pub struct Piece {
    start: *mut u8,
    len: usize,
}

impl Piece {
    /// A new one, every page of it written.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn touched(bytes: u64) -> io::Result<Piece> {
        let len = bytes as usize;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new anonymous mapping touches nobody's memory.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, access, flags) }?;
        let mut piece = Piece { start: start.cast(), len };
        // SAFETY: the mapping is ours. Without huge pages it only takes longer.
        unsafe { madvise(start, len, Advice::LinuxHugepage) }.ok();
        for page in piece.bytes().chunks_mut(4096) {
            // Not zero: a write of zeros might be skipped by a clever compiler, a page of zeros by a clever host.
            page[0] = 1;
        }
        Ok(piece)
    }

    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable until the drop, and borrowed as long as self.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe { munmap(self.start.cast(), self.len) }.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_in_a_sentence() {
        let error = WarmMemory::check(1 << 60).unwrap_err();
        assert!(format!("{error:#}").contains("--memory"), "{error:#}");
    }

    #[test]
    fn both_shares_are_held_until_they_are_needed() {
        let mut memory = WarmMemory::default();
        let mut heard = Vec::new();
        memory.hold(16 << 20, |held, all| heard.push((held, all))).unwrap();
        assert_eq!(heard.last(), Some(&(4 * PIECE, 4 * PIECE)));
        memory.release_source();
        assert_eq!((memory.source.len(), memory.destination.len()), (0, 2));
        memory.take_back_rest().unwrap();
        assert_eq!((memory.source.len(), memory.destination.len()), (1, 2));
        memory.release_destination();
        memory.hold(1 << 20, |_, _| ()).unwrap();
        assert_eq!((memory.source.len(), memory.destination.len()), (2, 2));
    }

    #[test]
    fn touched_memory_is_there() {
        let mut piece = Piece::touched(1 << 20).unwrap();
        assert!(piece.bytes().chunks(4096).all(|page| page[0] == 1));
    }
}
