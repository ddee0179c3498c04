//! The locks on a disk's file, and who has them.
//!
//! Two kinds are taken, because neither excludes the other:
//!
//! - `flock`, on the whole file: between Ferry and all programs that lock a file so;
//! - QEMU's, on single bytes (`block/file-posix.c`): it says what it does with an image by a shared lock on byte
//!   100 + n, and what others must not do meanwhile by one on byte 200 + n, where n is the number of a permission. These
//!   are locks of the open file (`F_OFD_SETLK` in fcntl(2)).
//!
//! QEMU's locks are all shared, so taking them succeeds. What counts is the look afterwards at the opposite bytes. Of two
//! programs that take first and look then, at least one sees the other.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, major, minor};
use thiserror::Error;

/// `RAW_LOCK_PERM_BASE`: whoever has byte `USES + n` locked makes use of permission n.
const USES: i64 = 100;
/// `RAW_LOCK_SHARED_BASE`: whoever has byte `DENIES + n` locked permits nobody else to.
const DENIES: i64 = 200;

/// Numbers of permissions: the bits of `BLK_PERM_*` in QEMU's `include/block/block-common.h`.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const WRITE_UNCHANGED: i64 = 2;
const RESIZE: i64 = 3;

/// Why a file could not be locked.
#[derive(Debug)]
pub(super) enum LockError {
    /// Somebody else has it.
    Busy,
    /// Any other failure.
    Call(io::Error),
}

/// Locks `file` for as long as it is open: for this user alone, or, if it is only read, against those who write to it.
pub(super) fn lock(file: &File, read_only: bool) -> Result<(), LockError> {
    let (operation, uses, denies): (_, &[i64], &[i64]) = match read_only {
        true => (FlockOperation::NonBlockingLockShared, &[CONSISTENT_READ], &[WRITE, RESIZE]),
        false => (
            FlockOperation::NonBlockingLockExclusive,
            &[CONSISTENT_READ, WRITE],
            &[WRITE, WRITE_UNCHANGED, RESIZE],
        ),
    };
    flock(file, operation).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => LockError::Busy,
        error => LockError::Call(error.into()),
    })?;
    lock_bytes(file, uses, denies).inspect_err(|_| {
        // So that `holder` does not find this one. If that fails, closing the file does it.
        flock(file, FlockOperation::Unlock).ok();
    })
}

/// QEMU's locks.
fn lock_bytes(file: &File, uses: &[i64], denies: &[i64]) -> Result<(), LockError> {
    let bytes = uses.iter().map(|n| USES + n).chain(denies.iter().map(|n| DENIES + n));
    let taken = bytes.map(|byte| lock_byte(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte));
    match taken.collect::<io::Result<Vec<_>>>() {
        Ok(_) => {}
        // Neither can QEMU lock a file here.
        Err(error) if has_no_byte_locks(&error) => {
            tracing::debug!(%error, "this file system has no locks on single bytes");
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(LockError::Busy),
        Err(error) => return Err(LockError::Call(error)),
    }
    // After all were taken, as QEMU does.
    let opposite = uses.iter().map(|n| DENIES + n).chain(denies.iter().map(|n| USES + n));
    for byte in opposite {
        let found = lock_byte(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte).map_err(LockError::Call)?;
        if found != libc::F_UNLCK {
            return Err(LockError::Busy);
        }
    }
    Ok(())
}

fn has_no_byte_locks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Takes a lock on one byte, or asks which is in the way of one. Returns the kind of the lock that was taken or found.
fn lock_byte(file: &File, command: libc::c_int, kind: libc::c_int, byte: i64) -> io::Result<libc::c_int> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // Must be 0 with locks of an open file.
        l_pid: 0,
    };
    // SAFETY: both commands read and write one `struct flock`, which lives until the call returns.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0.. => Ok(libc::c_int::from(lock.l_type)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A process that has a file locked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("process {pid} ({command}) has it locked")]
pub struct LockHolder {
    /// Its number.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
}

/// Who has `file` locked, as far as this user may know: a process of another host, or of another user, may stay unnamed.
pub(super) fn holder(file: &File) -> Option<LockHolder> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = fs::read_to_string("/proc/locks").ok()?;
    if let Some(holder) = locks.lines().filter_map(|line| pid_of(line, &place)).find_map(named) {
        return Some(holder);
    }
    // A lock of an open file has no process in /proc/locks. It stands beside each descriptor of that file.
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| holds(pid, &place, file)).find_map(named)
}

/// The process of a line such as `3: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF`, if it is about the file in `place`.
fn pid_of(line: &str, place: &str) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|&word| !matches!(word, "READ" | "WRITE")).skip(1);
    // `-1` is nobody's number.
    let (pid, found) = (words.next()?, words.next()?);
    if found == place { pid.parse().ok() } else { None }
}

/// Whether a descriptor of this process has locks on the file in `place`. Those of `ours` do not count.
fn holds(pid: u32, place: &str, ours: &File) -> bool {
    let own = (pid == std::process::id()).then(|| ours.as_raw_fd().to_string());
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    descriptors.flatten().filter(|entry| entry.file_name().to_str() != own.as_deref()).any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("lock:") && line.split_whitespace().any(|word| word == place))
    })
}

fn named(pid: u32) -> Option<LockHolder> {
    // Nobody, if it has ended: whoever it left the descriptor to has the lock.
    let command = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm")).ok()?;
    let printable = |c: char| if c.is_control() { '?' } else { c };
    Some(LockHolder { pid, command: command.trim_end().chars().map(printable).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_locks_are_read() {
        let place = "08:01:131";
        assert_eq!(pid_of("3: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF", place), Some(4711));
        assert_eq!(pid_of("4: POSIX  ADVISORY  READ  12 08:01:131 100 101", place), Some(12));
        assert_eq!(pid_of("5: OFDLCK ADVISORY  READ  -1 08:01:131 100 101", place), None);
        assert_eq!(pid_of("6: FLOCK  ADVISORY  WRITE 4711 08:01:13 0 EOF", place), None);
        assert_eq!(pid_of("", place), None);
    }
}
