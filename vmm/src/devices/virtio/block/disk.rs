//! The file behind a guest's disk, and the lock on it.
//!
//! ```text
//!          take: open, check, lock              release: write back, close
//!   free ─────────────────────────► held ──────────────────────────────────► free
//! ```
//! Two machines may have one disk, on storage that both hosts see, but only one may use it. The lock
//! (of the open file; see `lock`) is taken when a guest is booted, or just before it starts or resumes; the
//! source of a migration lets go of it when it gives the guest up. What is taken is opened anew, and of a
//! block device what this host has cached is dropped: another host may have written since. (What is cached of
//! a file is the business of the file system it lies on.)
//!
//! A lock on a block device, and on a file of some file systems, is known to one host only. There it keeps
//! this host's guests apart; of two hosts, one that migrates a guest to the other, it is the order above that
//! does.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::{Advice, fadvise};
use thiserror::Error;

use super::lock::{self, LockError, LockHolder};

/// Bytes of a sector: disks are made of whole ones.
pub const SECTOR_BYTES: u64 = 512;

/// A disk cannot be used. Says what to do about it.
#[derive(Debug, Error)]
pub enum DiskError {
    /// No such file.
    #[error("disk {} does not exist", path.display())]
    Absent {
        /// Its path.
        path: PathBuf,
    },
    /// Not permitted.
    #[error("disk {} may not be {} by this user", path.display(), if *read_only { "read" } else { "written" })]
    NotPermitted {
        /// Its path.
        path: PathBuf,
        /// It was only to be read.
        read_only: bool,
    },
    /// On a file system that cannot be written.
    #[error("disk {} is on a file system that cannot be written: give it to the guest read-only", path.display())]
    ReadOnly {
        /// Its path.
        path: PathBuf,
    },
    /// A folder, or the like.
    #[error("disk {} is neither a file nor a block device", path.display())]
    NotFile {
        /// Its path.
        path: PathBuf,
    },
    /// Half a sector.
    #[error("disk {} has {bytes} bytes, which is not a multiple of {SECTOR_BYTES}, or none", path.display())]
    NotSectors {
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another disk, or one that somebody cut off.
    #[error("disk {} has {bytes} bytes, and the guest was given one of {expected}", path.display())]
    Size {
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size it should have.
        expected: u64,
    },
    /// Somebody else has it.
    #[error("disk {} is in use: {}", path.display(), match holder {
        Some(holder) => holder.to_string(),
        None => "another guest or program, here or on another host, has it locked".to_owned(),
    })]
    Busy {
        /// Its path.
        path: PathBuf,
        /// Who, if that can be known.
        holder: Option<LockHolder>,
    },
    /// Any other failure.
    #[error("{operation} disk {}", path.display())]
    Call {
        /// What was asked.
        operation: &'static str,
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A disk that a guest can be given: a raw file, or a block device. Not locked until the guest has it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    read_only: bool,
    bytes: u64,
}

impl Disk {
    /// Looks at the disk at `path`, which must exist. It is not kept open.
    pub fn new(path: &Path, read_only: bool) -> Result<Disk, DiskError> {
        let mut disk = Disk { path: path.to_owned(), read_only, bytes: 0 };
        disk.bytes = disk.open()?.bytes;
        Ok(disk)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the guest may only read it.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn open(&self) -> Result<Opened, DiskError> {
        let path = || self.path.clone();
        let opened = OpenOptions::new().read(true).write(!self.read_only).open(&self.path);
        let mut file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DiskError::Absent { path: path() },
            io::ErrorKind::PermissionDenied => {
                DiskError::NotPermitted { path: path(), read_only: self.read_only }
            }
            io::ErrorKind::ReadOnlyFilesystem => DiskError::ReadOnly { path: path() },
            io::ErrorKind::IsADirectory => DiskError::NotFile { path: path() },
            _ => self.failed("open")(source),
        })?;
        let kind = file.metadata().map_err(self.failed("look at"))?.file_type();
        let is_block_device = std::os::unix::fs::FileTypeExt::is_block_device(&kind);
        if !kind.is_file() && !is_block_device {
            return Err(DiskError::NotFile { path: path() });
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(self.failed("find the end of"))?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(DiskError::NotSectors { path: path(), bytes });
        }
        Ok(Opened { file, bytes, is_block_device })
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> DiskError {
        let path = self.path.clone();
        move |source| DiskError::Call { operation, path: path.clone(), source }
    }
}

/// A disk that was opened.
struct Opened {
    file: File,
    bytes: u64,
    is_block_device: bool,
}

/// A disk, and whether this machine has it.
#[derive(Debug)]
pub(crate) struct HeldDisk {
    disk: Disk,
    /// Open and locked, while this machine has it.
    file: Mutex<Option<File>>,
}

impl HeldDisk {
    pub(super) fn new(disk: Disk) -> HeldDisk {
        HeldDisk { disk, file: Mutex::new(None) }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The open file, if this machine has the disk.
    pub(super) fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().expect("nothing panics with this lock held")
    }

    pub(crate) fn is_held(&self) -> bool {
        self.file().is_some()
    }

    /// Takes the disk: opens it anew, checks it and locks it. Does nothing if this machine has it.
    pub(crate) fn take(&self) -> Result<(), DiskError> {
        let mut held = self.file();
        if held.is_some() {
            return Ok(());
        }
        let disk = &self.disk;
        let Opened { file, bytes, is_block_device } = disk.open()?;
        lock::lock(&file, disk.read_only).map_err(|error| match error {
            LockError::Busy => DiskError::Busy { path: disk.path.clone(), holder: lock::holder(&file) },
            LockError::Call(error) => disk.failed("lock")(error),
        })?;
        if bytes != disk.bytes {
            return Err(DiskError::Size { path: disk.path.clone(), bytes, expected: disk.bytes });
        }
        if is_block_device {
            // After the lock: nothing is cached from here on but what is true.
            fadvise(&file, 0, None, Advice::DontNeed)
                .map_err(|e| disk.failed("drop what is cached of")(e.into()))?;
        }
        *held = Some(file);
        Ok(())
    }

    /// Writes back what the guest has written so far, while it goes on.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        // By a descriptor of its own, so that the guest's requests need not wait for it.
        let file =
            self.file().as_ref().map(File::try_clone).transpose().map_err(self.disk.failed("reach"))?;
        match file {
            Some(file) if !self.disk.read_only => file.sync_data().map_err(self.disk.failed("write back")),
            _ => Ok(()),
        }
    }

    /// Lets go of the disk, all of it written back. On an error this machine still has it. Does nothing if it has not.
    pub(crate) fn release(&self) -> Result<(), DiskError> {
        let mut held = self.file();
        if let Some(file) = &*held
            && !self.disk.read_only
        {
            file.sync_all().map_err(self.disk.failed("write back"))?;
        }
        // Closing ends the lock: the descriptor was never handed out.
        *held = None;
        Ok(())
    }
}
