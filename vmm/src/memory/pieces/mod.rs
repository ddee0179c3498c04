//! Scattered guest memory, for calls of the kernel: what a device's descriptors point at, as one list.
//!
//! Bytes go straight between a file and the guest, without a buffer between. Whoever writes guest memory through here
//! cannot forget to say so: each method marks what it wrote in the VMM's dirty bitmap, after it wrote it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{GuestMemory, PAGE_BYTES};

/// Most pieces of one list. A driver that was told no other limit rarely uses more than twenty.
pub(crate) const MAX_PIECES: usize = 128;
/// Bytes beyond the list that [`Pieces::read_from`] can tell from an exact fit.
const OVERFLOW_BYTES: usize = 1;
const NOTHING: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// A list that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPiece {
    /// Some of it is not guest memory.
    Outside,
    /// More than [`MAX_PIECES`].
    TooMany,
}

/// Stretches of guest memory in the order of a device's descriptors. Lives on the stack for as long as one chain.
#[derive(Clone)]
pub(crate) struct Pieces<'m> {
    memory: &'m GuestMemory,
    /// One place before the pieces and one behind them: for bytes of the caller's own.
    list: [libc::iovec; MAX_PIECES + 2],
    /// Pieces `first..end` of `list` are in use; `first` is at least 1.
    first: usize,
    end: usize,
    bytes: usize,
}

impl<'m> Pieces<'m> {
    /// No pieces.
    pub(crate) fn new(memory: &'m GuestMemory) -> Pieces<'m> {
        Pieces { memory, list: [NOTHING; MAX_PIECES + 2], first: 1, end: 1, bytes: 0 }
    }

    /// Appends the `bytes` at a guest-physical address. Touches no guest memory.
    pub(crate) fn push(&mut self, guest_address: u64, bytes: u32) -> Result<(), BadPiece> {
        if bytes == 0 {
            return Ok(());
        }
        let bytes = bytes as usize;
        let last = guest_address.checked_add(bytes as u64 - 1).ok_or(BadPiece::Outside)?;
        let start = self.memory.offset_of(guest_address).ok_or(BadPiece::Outside)?;
        let end = self.memory.offset_of(last).ok_or(BadPiece::Outside)?;
        // Both ends may lie in memory, and a hole between them.
        if end - start != bytes as u64 - 1 {
            return Err(BadPiece::Outside);
        }
        if self.end > MAX_PIECES {
            return Err(BadPiece::TooMany);
        }
        // SAFETY: the offset lies within the mapping: `offset_of` says so.
        let base = unsafe { self.memory.as_ptr().add(start as usize) };
        self.list[self.end] = libc::iovec { iov_base: base.cast(), iov_len: bytes };
        self.end += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Bytes of all pieces.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves out the first `bytes`, or all if there are fewer.
    pub(crate) fn skip(&mut self, bytes: usize) {
        let mut left = bytes.min(self.bytes);
        self.bytes -= left;
        while left > 0 {
            let piece = &mut self.list[self.first];
            let part = left.min(piece.iov_len);
            // SAFETY: at most to the end of the piece.
            piece.iov_base = unsafe { piece.iov_base.byte_add(part) };
            piece.iov_len -= part;
            left -= part;
            self.first += usize::from(piece.iov_len == 0);
        }
    }

    /// Keeps only the first `bytes`; the others are cut off.
    pub(crate) fn truncate(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let piece = &mut self.list[self.end - 1];
            let part = (self.bytes - bytes).min(piece.iov_len);
            piece.iov_len -= part;
            self.bytes -= part;
            self.end -= usize::from(piece.iov_len == 0);
        }
    }

    /// Reads once from `from` into the pieces. Returns how many bytes were read: more than [`bytes`](Self::bytes) if a
    /// packet was longer than the pieces, the rest of which is lost.
    pub(crate) fn read_from(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let mut overflow = [0u8; OVERFLOW_BYTES];
        self.list[self.end] = libc::iovec { iov_base: overflow.as_mut_ptr().cast(), iov_len: OVERFLOW_BYTES };
        let list = &self.list[self.first..=self.end];
        // SAFETY: each entry is guest memory, mapped as long as `memory`, or the live overflow buffer; no Rust reference
        // to guest memory exists.
        let read = unsafe { libc::readv(from.as_raw_fd(), list.as_ptr(), list.len() as libc::c_int) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        self.mark(0, read);
        Ok(read)
    }

    /// Writes `before` and the pieces to `to`, once.
    pub(crate) fn write_to(&mut self, to: BorrowedFd<'_>, before: &[u8]) -> io::Result<usize> {
        self.fetch()?;
        // Cast to mutable for the type's sake: writev only reads.
        self.list[self.first - 1] =
            libc::iovec { iov_base: before.as_ptr().cast_mut().cast(), iov_len: before.len() };
        let list = &self.list[self.first - 1..self.end];
        // SAFETY: each entry is guest memory, mapped as long as `memory`, or `before`, which lives across the call.
        let written = unsafe { libc::writev(to.as_raw_fd(), list.as_ptr(), list.len() as libc::c_int) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Fills the pieces with what is at `offset` bytes in `from`. Returns how many bytes were there: fewer at its end.
    pub(crate) fn read_at(&mut self, from: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while self.bytes > 0 {
            let list = &self.list[self.first..self.end];
            let (count, at) = (list.len() as libc::c_int, file_offset(offset, done)?);
            // SAFETY: each entry is guest memory, mapped as long as `memory`; no Rust reference to it exists.
            let read = unsafe { libc::preadv(from.as_raw_fd(), list.as_ptr(), count, at) };
            match usize::try_from(read) {
                Ok(0) => break,
                Ok(read) => {
                    self.mark(0, read);
                    self.skip(read);
                    done += read;
                }
                Err(_) => retry_if_interrupted()?,
            }
        }
        Ok(done)
    }

    /// Writes all of the pieces to `to`, at `offset` bytes.
    pub(crate) fn write_at(&mut self, to: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.fetch()?;
        let mut done = 0;
        while self.bytes > 0 {
            let list = &self.list[self.first..self.end];
            let (count, at) = (list.len() as libc::c_int, file_offset(offset, done)?);
            // SAFETY: as for `read_at`; pwritev only reads.
            let written = unsafe { libc::pwritev(to.as_raw_fd(), list.as_ptr(), count, at) };
            match usize::try_from(written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.skip(written);
                    done += written;
                }
                Err(_) => retry_if_interrupted()?,
            }
        }
        Ok(())
    }

    /// Waits for those of the pieces' pages that are missing, so that what leaves the machine leaves it whole or not at
    /// all: a call of the kernel that waited itself would go on with zeros when the machine ends.
    fn fetch(&self) -> io::Result<()> {
        if self.memory.has_missing_pages() {
            self.each(0, self.bytes, |start, length| {
                let to_border = PAGE_BYTES as usize - start as usize % PAGE_BYTES as usize;
                for at in [0].into_iter().chain((to_border..length).step_by(PAGE_BYTES as usize)) {
                    // SAFETY: a byte of the stretch, which is guest memory; what it holds does not matter.
                    unsafe { start.add(at).read_volatile() };
                }
                length
            });
        }
        self.check_whole()
    }

    /// As [`GuestMemory::check_whole`].
    pub(crate) fn check_whole(&self) -> io::Result<()> {
        self.memory.check_whole()
    }

    /// Calls `with` for the whole pages (dense numbers) within each piece.
    pub(crate) fn whole_pages(&self, mut with: impl FnMut(Range<u64>)) {
        let base = self.memory.as_ptr() as usize;
        self.each(0, self.bytes, |start, length| {
            let start = (start as usize - base) as u64;
            let pages = start.div_ceil(PAGE_BYTES)..(start + length as u64) / PAGE_BYTES;
            if !pages.is_empty() {
                with(pages);
            }
            length
        });
    }

    /// Copies `bytes` into the pieces, `at` bytes from their start. Returns how many found room.
    pub(crate) fn copy_in(&mut self, at: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.each(at, bytes.len(), |to, length| {
            // SAFETY: `to` is `length` bytes of guest memory, `bytes` of ours: they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().add(done), to, length) };
            done += length;
            length
        });
        self.mark(at, done);
        done
    }

    /// Copies bytes out of the pieces, from `at` bytes after their start. Returns how many there were.
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) -> usize {
        let mut done = 0;
        let length = into.len();
        self.each(at, length, |from, length| {
            // SAFETY: as for `copy_in`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr().add(done), length) };
            done += length;
            length
        });
        done
    }

    /// Fills the pieces with random bytes of the host's kernel. Returns how many.
    pub(crate) fn fill_with_random(&mut self) -> usize {
        let mut done = 0;
        self.each(0, self.bytes, |to, length| {
            // SAFETY: `to` is `length` bytes of guest memory.
            let filled = unsafe { libc::getrandom(to.cast(), length, 0) };
            let filled = usize::try_from(filled).unwrap_or(0);
            done += filled;
            filled
        });
        self.mark(0, done);
        done
    }

    /// Calls `with` for each stretch of `bytes` bytes from `at` on, until it does less than it was given.
    fn each(&self, at: usize, bytes: usize, mut with: impl FnMut(*mut u8, usize) -> usize) {
        let (mut skip, mut left) = (at, bytes);
        for piece in &self.list[self.first..self.end] {
            if left == 0 {
                return;
            }
            let lead = skip.min(piece.iov_len);
            skip -= lead;
            let length = (piece.iov_len - lead).min(left);
            if length > 0 {
                // SAFETY: `lead` is at most the piece's length.
                let start = unsafe { piece.iov_base.cast::<u8>().add(lead) };
                if with(start, length) < length {
                    return;
                }
                left -= length;
            }
        }
    }

    /// Says that `bytes` bytes from `at` on were written.
    fn mark(&self, at: usize, bytes: usize) {
        let base = self.memory.as_ptr() as usize;
        self.each(at, bytes, |start, length| {
            self.memory.written().mark_bytes((start as usize - base) as u64, length as u64);
            length
        });
    }
}

fn file_offset(offset: u64, done: usize) -> io::Result<libc::off_t> {
    let at = offset.checked_add(done as u64).and_then(|at| libc::off_t::try_from(at).ok());
    at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn retry_if_interrupted() -> io::Result<()> {
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests;
