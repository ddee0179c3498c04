//! Host memory before timing: what was never touched since the host booted costs seconds a GiB the first time.

use std::{io, ptr};

use anyhow::{Context, Result, bail};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::facts::available_bytes;
use crate::{interrupt, units};

/// Left to the rest of the host.
const RESERVE: u64 = 512 << 20;
const PIECE: u64 = 64 << 20;

/// Touches as much memory as source and destination of a guest of `guest_bytes` will use, and gives it back.
/// `progress` hears how much of how much is done.
///
/// # Errors
/// If the host has not so much, or the user interrupts.
pub fn warm_up(guest_bytes: u64, mut progress: impl FnMut(u64, u64)) -> Result<()> {
    let wanted = guest_bytes.saturating_mul(2).saturating_add(256 << 20);
    let available = available_bytes().unwrap_or(u64::MAX);
    if wanted.saturating_add(RESERVE) > available {
        bail!(
            "a guest of {} needs {} here, source and destination together, and the host has {} free: choose less with \
             --memory, or end other programs",
            units::bytes(guest_bytes),
            units::bytes(wanted + RESERVE),
            units::bytes(available)
        );
    }
    let mut pieces = Vec::new();
    for done in (0..wanted).step_by(PIECE as usize) {
        interrupt::check()?;
        pieces.push(Piece::touched(PIECE).context("warm up memory")?);
        progress(done + PIECE, wanted);
    }
    Ok(())
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
        let error = warm_up(1 << 60, |_, _| ()).unwrap_err();
        assert!(format!("{error:#}").contains("--memory"), "{error:#}");
    }

    #[test]
    fn touched_memory_is_there() {
        let mut piece = Piece::touched(1 << 20).unwrap();
        assert!(piece.bytes().chunks(4096).all(|page| page[0] == 1));
    }
}
