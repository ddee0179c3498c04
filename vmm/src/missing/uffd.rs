//! userfaultfd, call by call. The `unsafe` of missing pages lives here.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use linux_raw_sys::general::{
    UFFD_API, UFFD_FEATURE_MOVE, UFFDIO_REGISTER_MODE_MISSING, uffd_msg, uffdio_api, uffdio_copy,
    uffdio_move, uffdio_range, uffdio_register, uffdio_zeropage,
};
use linux_raw_sys::ioctl;

// include/uapi/linux/userfaultfd.h: USERFAULTFD_IOC_NEW = _IO(0xAA, 0x00)
const USERFAULTFD_IOC_NEW: u32 = 0xaa << 8;
// include/uapi/linux/userfaultfd.h: UFFDIO_MOVE = _IOWR(UFFDIO, 0x05, struct uffdio_move)
const UFFDIO_MOVE: u32 = 3 << 30 | (size_of::<uffdio_move>() as u32) << 16 | 0xaa << 8 | 0x05;
const _: () = assert!(UFFDIO_MOVE == 0xc028_aa05);
// include/uapi/linux/userfaultfd.h: an absent source page installs nothing and is no error
const UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES: u64 = 1 << 1;
/// Bytes of one message of the kernel.
pub(super) const MESSAGE_BYTES: usize = 32;
const _: () = assert!(size_of::<uffd_msg>() == MESSAGE_BYTES);

/// A userfaultfd, non-blocking, whose API was agreed on.
#[derive(Debug)]
pub(crate) struct Uffd {
    fd: OwnedFd,
    /// The kernel can move pages (UFFDIO_MOVE, Linux 6.8).
    pub(super) can_move: bool,
}

impl Uffd {
    /// Opens one that also serves the kernel's own faults, as KVM's are.
    pub(super) fn open() -> io::Result<Uffd> {
        let fd = match Self::by_system_call() {
            // Only root and CAP_SYS_PTRACE may call; the device's file mode may allow more.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Self::by_device(error)?,
            other => other?,
        };
        // Asking for a feature the kernel lacks fails and uses up the descriptor, so ask for none but what is there:
        // first on a descriptor of its own.
        let mut uffd = Uffd { fd, can_move: false };
        let mut api = uffdio_api { api: u64::from(UFFD_API), features: 0, ioctls: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_api`.
        unsafe { uffd.call(ioctl::UFFDIO_API, &mut api)? };
        uffd.can_move = api.features & u64::from(UFFD_FEATURE_MOVE) != 0;
        Ok(uffd)
    }

    fn by_system_call() -> io::Result<OwnedFd> {
        // SAFETY: makes a new descriptor, touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    fn by_device(refused: io::Error) -> io::Result<OwnedFd> {
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") else {
            return Err(refused);
        };
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: makes a new descriptor, touches no memory.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW.into(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// From here the first access to any absent page of `range` (host addresses) waits for an answer.
    pub(super) fn register(&self, range: Range<u64>) -> io::Result<()> {
        let mut ask =
            uffdio_register { range: of(&range), mode: u64::from(UFFDIO_REGISTER_MODE_MISSING), ioctls: 0 };
        // SAFETY: the kernel reads and writes one `uffdio_register`; the range is checked by the kernel.
        unsafe { self.call(ioctl::UFFDIO_REGISTER, &mut ask) }
    }

    /// Ends it, and wakes all who wait: absent pages read as zeros afterwards.
    pub(super) fn unregister(&self, range: Range<u64>) -> io::Result<()> {
        // SAFETY: the kernel reads one `uffdio_range`.
        unsafe { self.call(ioctl::UFFDIO_UNREGISTER, &mut of(&range)) }
    }

    /// Wakes who waits for a page of `range`; a page still absent faults again.
    pub(super) fn wake(&self, range: Range<u64>) -> io::Result<()> {
        // SAFETY: the kernel reads one `uffdio_range`.
        unsafe { self.call(ioctl::UFFDIO_WAKE, &mut of(&range)) }
    }

    /// Copies `bytes` to absent pages at host address `to` and wakes who waits for them. Returns the bytes installed,
    /// fewer than asked when it ran into a present page.
    pub(super) fn copy(&self, to: u64, bytes: &[u8]) -> io::Result<u64> {
        let mut ask =
            uffdio_copy { dst: to, src: bytes.as_ptr() as u64, len: bytes.len() as u64, mode: 0, copy: 0 };
        // SAFETY: the source lives across the call. The kernel writes only into registered, absent pages, that is guest
        // memory, to which no Rust reference exists.
        let done = unsafe { self.call(ioctl::UFFDIO_COPY, &mut ask) };
        partly(done, ask.copy)
    }

    /// As [`copy`](Self::copy), with zeros.
    pub(super) fn zero(&self, range: Range<u64>) -> io::Result<u64> {
        let mut ask = uffdio_zeropage { range: of(&range), mode: 0, zeropage: 0 };
        // SAFETY: as for `copy`; there is no source.
        let done = unsafe { self.call(ioctl::UFFDIO_ZEROPAGE, &mut ask) };
        partly(done, ask.zeropage)
    }

    /// Moves the pages at host address `from` to absent ones at `to`, without copying where the kernel can. Returns the
    /// bytes moved.
    ///
    /// # Safety
    /// `from..from + bytes` is private anonymous memory that the caller owns and that no Rust reference points to: it is
    /// absent afterwards.
    pub(super) unsafe fn move_pages(&self, to: u64, from: u64, bytes: u64) -> io::Result<u64> {
        let mut ask =
            uffdio_move { dst: to, src: from, len: bytes, mode: UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, move_: 0 };
        // SAFETY: the source is the caller's, as the contract says; the destination as for `copy`.
        let done = unsafe { self.call(UFFDIO_MOVE, &mut ask) };
        partly(done, ask.move_)
    }

    /// # Safety
    /// `argument` has the type that `request` reads and writes.
    unsafe fn call<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: upheld by the caller.
        let answer = unsafe { libc::ioctl(self.fd.as_raw_fd(), request.into(), argument) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn of(range: &Range<u64>) -> uffdio_range {
    uffdio_range { start: range.start, len: range.end - range.start }
}

/// A call that did a part says so in its argument and fails with EAGAIN; one that did nothing fails with its reason,
/// there too.
fn partly(done: io::Result<()>, count: i64) -> io::Result<u64> {
    match done {
        Ok(()) => Ok(count as u64),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && count > 0 => Ok(count as u64),
        Err(error) => Err(error),
    }
}
