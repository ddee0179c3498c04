//! One request for a disk (Virtual I/O Device version 1.2, 5.2.6).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use virtio_bindings::virtio_blk as blk;

use super::disk::{Disk, SECTOR_BYTES};
use crate::devices::virtio::chain::Chain;
use crate::memory::pieces::Pieces;

/// Most sectors discarded by one segment: 1 GiB.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most segments of one request to discard.
pub(super) const MAX_DISCARD_SEGMENTS: u32 = 16;
/// Most sectors zeroed by one request: 16 MiB, since where the file cannot have holes they are written.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 15;
/// Most bytes read or written by one request; far beyond what a driver asks for. Pausing waits for it.
const MAX_REQUEST_BYTES: u64 = 32 << 20;
const HEADER_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 16;
/// What GET_ID answers.
const ID: &[u8; 20] = b"ferry disk\0\0\0\0\0\0\0\0\0\0";

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The disk, or the request, does not allow it.
    Io,
    /// Not known here.
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        tracing::warn!(%error, "a guest's disk failed it");
        Refusal::Io
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Refusal {
        io::Error::from(error).into()
    }
}

/// Does what `chain` asks for. Returns how many bytes were written into it.
pub(super) fn handle(file: &File, disk: &Disk, chain: Chain<'_>) -> u32 {
    let Chain { readable, mut writable } = chain;
    // The last byte that may be written says how it went. Without it there is no telling.
    let Some(status_at) = writable.bytes().checked_sub(1) else { return 0 };
    let mut status = writable.clone();
    status.skip(status_at);
    writable.truncate(status_at);
    let (code, written) = match execute(file, disk, readable, writable) {
        Ok(written) => (blk::VIRTIO_BLK_S_OK, written),
        Err(Refusal::Io) => (blk::VIRTIO_BLK_S_IOERR, 0),
        Err(Refusal::Unsupported) => (blk::VIRTIO_BLK_S_UNSUPP, 0),
    };
    status.copy_in(0, &[code as u8]);
    written as u32 + 1
}

fn execute(
    file: &File,
    disk: &Disk,
    mut readable: Pieces<'_>,
    mut writable: Pieces<'_>,
) -> Result<usize, Refusal> {
    let mut header = [0; HEADER_BYTES];
    if readable.copy_out(0, &mut header) < HEADER_BYTES {
        return Err(Refusal::Io);
    }
    readable.skip(HEADER_BYTES);
    let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
    match kind {
        blk::VIRTIO_BLK_T_IN => {
            let bytes = writable.bytes();
            let offset = offset_of(disk, sector, bytes as u64)?;
            let read = writable.read_at(file.as_fd(), offset)?;
            if read < bytes { Err(Refusal::Io) } else { Ok(read) }
        }
        blk::VIRTIO_BLK_T_OUT => {
            let offset = offset_of(disk, sector, readable.bytes() as u64)?;
            refuse_if_read_only(disk)?;
            readable.write_at(file.as_fd(), offset)?;
            Ok(0)
        }
        blk::VIRTIO_BLK_T_FLUSH => {
            file.sync_data()?;
            Ok(0)
        }
        blk::VIRTIO_BLK_T_GET_ID => Ok(writable.copy_in(0, ID)),
        blk::VIRTIO_BLK_T_DISCARD => {
            refuse_if_read_only(disk)?;
            each_segment(&readable, MAX_DISCARD_SEGMENTS, |segment| discard(file, disk, segment))
        }
        blk::VIRTIO_BLK_T_WRITE_ZEROES => {
            refuse_if_read_only(disk)?;
            each_segment(&readable, 1, |segment| write_zeroes(file, disk, segment))
        }
        _ => Err(Refusal::Unsupported),
    }
}

/// A part of the disk that is to be discarded or zeroed.
#[derive(Clone, Copy, Debug)]
struct Segment {
    sector: u64,
    sectors: u32,
    flags: u32,
}

fn each_segment(
    readable: &Pieces<'_>,
    limit: u32,
    mut with: impl FnMut(Segment) -> Result<(), Refusal>,
) -> Result<usize, Refusal> {
    let bytes = readable.bytes();
    if bytes == 0 || !bytes.is_multiple_of(SEGMENT_BYTES) || bytes > limit as usize * SEGMENT_BYTES {
        return Err(Refusal::Io);
    }
    for at in (0..bytes).step_by(SEGMENT_BYTES) {
        let mut segment = [0; SEGMENT_BYTES];
        readable.copy_out(at, &mut segment);
        readable.check_whole()?;
        with(Segment {
            sector: u64_at(&segment, 0),
            sectors: u32_at(&segment, 8),
            flags: u32_at(&segment, 12),
        })?;
    }
    Ok(0)
}

fn discard(file: &File, disk: &Disk, segment: Segment) -> Result<(), Refusal> {
    if segment.flags != 0 {
        return Err(Refusal::Unsupported);
    }
    let (offset, bytes) = place_of(disk, segment, MAX_DISCARD_SECTORS)?;
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes) {
        // Discarding is a hint.
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => Ok(other?),
    }
}

fn write_zeroes(file: &File, disk: &Disk, segment: Segment) -> Result<(), Refusal> {
    let may_unmap = segment.flags & 1 != 0;
    if segment.flags & !1 != 0 {
        return Err(Refusal::Unsupported);
    }
    let (offset, bytes) = place_of(disk, segment, MAX_ZERO_SECTORS)?;
    let how = if may_unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
    match fallocate(file, how | FallocateFlags::KEEP_SIZE, offset, bytes) {
        Err(Errno::OPNOTSUPP) => {}
        other => return Ok(other?),
    }
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for at in (0..bytes).step_by(ZEROS.len()) {
        let part = (bytes - at).min(ZEROS.len() as u64) as usize;
        file.write_all_at(&ZEROS[..part], offset + at)?;
    }
    Ok(())
}

fn place_of(disk: &Disk, segment: Segment, limit: u32) -> Result<(u64, u64), Refusal> {
    if segment.sectors == 0 || segment.sectors > limit {
        return Err(Refusal::Io);
    }
    let bytes = u64::from(segment.sectors) * SECTOR_BYTES;
    let offset = segment.sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::Io)?;
    within(disk, offset, bytes).map(|offset| (offset, bytes))
}

/// Where a request for `bytes` bytes from `sector` on begins in the file.
fn offset_of(disk: &Disk, sector: u64, bytes: u64) -> Result<u64, Refusal> {
    if !bytes.is_multiple_of(SECTOR_BYTES) || bytes > MAX_REQUEST_BYTES {
        return Err(Refusal::Io);
    }
    within(disk, sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::Io)?, bytes)
}

fn within(disk: &Disk, offset: u64, bytes: u64) -> Result<u64, Refusal> {
    match offset.checked_add(bytes) {
        Some(end) if end <= disk.bytes() => Ok(offset),
        _ => Err(Refusal::Io),
    }
}

fn refuse_if_read_only(disk: &Disk) -> Result<(), Refusal> {
    if disk.is_read_only() { Err(Refusal::Io) } else { Ok(()) }
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within 16 bytes"))
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within 16 bytes"))
}
