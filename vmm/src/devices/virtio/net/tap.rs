//! The host's end of a guest's network card (Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;

/// Bytes of the virtio header before each frame, in both directions.
pub const VNET_HEADER_BYTES: usize = 12;
/// Most bytes of an interface's name.
const MAX_NAME_BYTES: usize = libc::IFNAMSIZ - 1;
const DEVICE: &str = "/dev/net/tun";
const FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;

/// A tap cannot be used. Says what to do about it.
#[derive(Debug, Error)]
pub enum TapError {
    /// Not a name.
    #[error(
        "{name:?} is not a name for a network interface: 1 to {MAX_NAME_BYTES} bytes, no space, slash or %"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// No tun driver.
    #[error("{DEVICE} does not exist: load the tun module, or hand the device to this container")]
    NoDriver,
    /// The device may not be opened.
    #[error("{DEVICE} may not be opened by this user")]
    DeviceNotPermitted,
    /// Opening the device failed otherwise.
    #[error("open {DEVICE}")]
    Device(#[source] io::Error),
    /// It does not exist, and may not be created.
    #[error(
        "there is no tap {name}, and this user may not create one: run as root, give the program CAP_NET_ADMIN, or let \
         root create it (`ip tuntap add {name} mode tap user $USER vnet_hdr`)"
    )]
    Absent {
        /// Its name.
        name: String,
    },
    /// Another user's.
    #[error("tap {name} may not be used by this user: run as root, or let root create it for this user")]
    NotPermitted {
        /// Its name.
        name: String,
    },
    /// Somebody has it.
    #[error("tap {name} is busy: another program has it")]
    Busy {
        /// Its name.
        name: String,
    },
    /// Another kind of interface.
    #[error(
        "{name} is not a tap that can be used here: it is another kind of interface, or has several queues"
    )]
    NotTap {
        /// Its name.
        name: String,
    },
    /// A descriptor of something else.
    #[error("the descriptor is not a tap's")]
    NotTapDescriptor(#[source] io::Error),
    /// A tap without the header that virtio needs.
    #[error("the descriptor's tap {name} was not opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags {
        /// Its name.
        name: String,
    },
    /// Any other failure.
    #[error("{operation} tap {name}")]
    Call {
        /// What was asked.
        operation: &'static str,
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A tap: what is read from it are frames for the guest, what is written to it are frames of the guest. Closed when
/// dropped; one that was not persistent is gone then.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Attaches to the tap `name`, or creates it if there is none and this process may (CAP_NET_ADMIN). It is neither
    /// brought up nor put on a bridge here.
    pub fn open(name: &str) -> Result<Tap, TapError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '%' | ':');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name == "." || name == ".." || name.contains(bad)
        {
            return Err(TapError::Name { name: name.to_owned() });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver,
                Some(libc::EACCES | libc::EPERM) => TapError::DeviceNotPermitted,
                _ => TapError::Device(source),
            })?;
        let mut request = request_for(name);
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives across the call.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        if set < 0 {
            return Err(refused(name.to_owned(), io::Error::last_os_error()));
        }
        Tap::prepared(file, name.to_owned())
    }

    /// Takes over a descriptor of a tap, opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR by somebody who may.
    pub fn from_fd(fd: OwnedFd) -> Result<Tap, TapError> {
        let mut request = request_for("");
        // SAFETY: TUNGETIFF writes one `ifreq`, which lives across the call.
        let got = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &mut request) };
        if got < 0 {
            return Err(TapError::NotTapDescriptor(io::Error::last_os_error()));
        }
        let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8 as char);
        let name = name.collect();
        // SAFETY: TUNGETIFF filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        if flags & FLAGS != FLAGS {
            return Err(TapError::Flags { name });
        }
        let flags = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK));
        match flags {
            Ok(()) => Tap::prepared(File::from(fd), name),
            Err(error) => {
                Err(TapError::Call { operation: "make calls non-blocking on", name, source: error.into() })
            }
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Headers of virtio 1's size, and neither checksums nor segmentation left to the other side.
    fn prepared(file: File, name: String) -> Result<Tap, TapError> {
        let header_bytes = VNET_HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one `int`, which lives across the call.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header_bytes) };
        if set < 0 {
            let source = io::Error::last_os_error();
            return Err(TapError::Call { operation: "set the header size of", name, source });
        }
        // SAFETY: TUNSETOFFLOAD takes a number.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) };
        if set < 0 {
            let source = io::Error::last_os_error();
            return Err(TapError::Call { operation: "turn off the offloads of", name, source });
        }
        Ok(Tap { file, name })
    }

    /// Something else that keeps packets apart, for tests without a tap.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_socket(socket: std::os::unix::net::UnixDatagram) -> Tap {
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        Tap { file: File::from(OwnedFd::from(socket)), name: "socket".to_owned() }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

pub(super) fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain numbers, of which zeros are fine.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    request
}

fn refused(name: String, source: io::Error) -> TapError {
    let exists = std::path::Path::new("/sys/class/net").join(&name).exists();
    match source.raw_os_error() {
        Some(libc::EBUSY) => TapError::Busy { name },
        Some(libc::EPERM | libc::EACCES) if exists => TapError::NotPermitted { name },
        Some(libc::EPERM | libc::EACCES) => TapError::Absent { name },
        Some(libc::EINVAL | libc::EEXIST) => TapError::NotTap { name },
        _ => TapError::Call { operation: "attach to", name, source },
    }
}
