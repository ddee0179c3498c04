//! What this host permits in networks: namespaces that stand for hosts, bridges between them, and taps.
//!
//! `ferry doctor` tells it, and the harness asks before it builds a network. Both do so by trying it in a process
//! that ends at once: what the kernel permits depends on half a dozen settings, and on more of them each year.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
    process::{getegid, geteuid},
    thread::{UnshareFlags, unshare_unsafe},
};
use thiserror::Error;

/// By which right networks are made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// This process may make namespaces: it is root, or has CAP_SYS_ADMIN.
    Root,
    /// It may, once it is in a user namespace of its own: see [`UserNamespace`].
    UserNamespace,
}

impl Privilege {
    /// How, for people.
    pub fn in_words(self) -> &'static str {
        match self {
            Privilege::Root => "can be made, as root",
            Privilege::UserNamespace => "can be made without being root, in a user namespace",
        }
    }
}

/// Why no network of namespaces can be made here.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Neither as this user nor in a user namespace.
    #[error("neither this user nor a user namespace may make a network namespace")]
    Namespaces(#[source] io::Error),
    /// There is a user namespace, but it is worth nothing: AppArmor does so on some distributions.
    #[error("a user namespace can be made, and has no rights in it")]
    Powerless(#[source] io::Error),
    /// No tap.
    #[error("no tap can be made in a network namespace")]
    Tap(#[source] io::Error),
    /// No bridge.
    #[error("no bridge can be made in a network namespace")]
    Bridge(#[source] io::Error),
    /// It could not be tried.
    #[error("not known: no process can be started to find out")]
    Untried(#[source] io::Error),
}

impl Refusal {
    /// What to do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Refusal::Namespaces(_) => {
                "be root, or raise user.max_user_namespaces and user.max_net_namespaces and set \
                 kernel.unprivileged_userns_clone=1, with sysctl"
            }
            Refusal::Powerless(_) => "be root, or: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            Refusal::Tap(_) => "modprobe tun, and as root: chmod 666 /dev/net/tun",
            Refusal::Bridge(_) => "as root: modprobe bridge",
            Refusal::Untried(_) => "end other processes, or raise ulimit -u",
        }
    }
}

/// Whether namespaces with a bridge and a tap in them can be made here, and by which right.
///
/// # Errors
/// If not, with the first thing that failed.
pub fn permitted() -> Result<Privilege, Refusal> {
    let namespace = UserNamespace::of_this_user();
    // Never run: the attempt ends with the word of what it found, which comes back as the reason.
    let mut command = Command::new("/");
    // SAFETY: the closure makes system calls only, and neither allocates nor locks.
    unsafe { command.pre_exec(move || Err(io::Error::from_raw_os_error(Attempt::of(&namespace).encode()))) };
    match command.spawn() {
        Ok(mut child) => {
            child.wait().ok();
            Err(Refusal::Untried(io::ErrorKind::Other.into()))
        }
        Err(error) => Attempt::decode(error),
    }
}

/// Whether a tap can be opened by name: what a guest with a network needs.
///
/// # Errors
/// If `/dev/net/tun` cannot be opened.
pub fn tap() -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop)
}

/// A user namespace in which this user is root, and nobody else is anybody.
#[derive(Debug)]
pub struct UserNamespace {
    user_map: String,
    group_map: String,
}

impl UserNamespace {
    /// Prepares one. Nothing is made yet.
    pub fn of_this_user() -> UserNamespace {
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        UserNamespace { user_map: format!("0 {user} 1"), group_map: format!("0 {group} 1") }
    }

    /// Moves this process into it. Neither allocates nor locks: it may be called between `fork` and `exec`.
    ///
    /// # Errors
    /// If the kernel does not permit it, or this process has more than one thread. The process may be in a namespace
    /// without rights then; ask [`permitted`] before.
    pub fn enter(&self) -> io::Result<()> {
        self.make()?;
        Ok(self.map()?)
    }

    fn make(&self) -> Result<(), Errno> {
        // SAFETY: a new user namespace takes no file descriptor from another thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }
    }

    fn map(&self) -> Result<(), Errno> {
        // Without it the kernel takes no map of groups: a process could drop a group that is denied something.
        write(c"/proc/self/setgroups", "deny")?;
        write(c"/proc/self/uid_map", &self.user_map)?;
        write(c"/proc/self/gid_map", &self.group_map)
    }
}

fn write(path: &std::ffi::CStr, text: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// What came out of trying, small enough to be handed over as a number.
#[derive(Clone, Copy)]
enum Attempt {
    Done(Privilege),
    Failed(Step, Errno),
}

#[derive(Clone, Copy)]
enum Step {
    Namespace = 1,
    Map,
    Tap,
    Bridge,
}

/// Above every number of an error.
const STEP_SHIFT: i32 = 16;
const AS_ROOT: i32 = 5 << STEP_SHIFT;
const IN_USER_NAMESPACE: i32 = 6 << STEP_SHIFT;

impl Attempt {
    fn of(namespace: &UserNamespace) -> Attempt {
        // SAFETY: this process has one thread, and a new network takes no file descriptor from it.
        let unshare = || unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        let tried = match unshare() {
            Ok(()) => Ok(Privilege::Root),
            Err(_) => (namespace.make().map_err(|error| (Step::Namespace, error)))
                .and_then(|()| namespace.map().map_err(|error| (Step::Map, error)))
                .and_then(|()| unshare().map_err(|error| (in_user_namespace(error), error)))
                .map(|()| Privilege::UserNamespace),
        };
        let tried = tried.and_then(|privilege| {
            make_tap().map_err(|error| (Step::Tap, error))?;
            make_bridge().map_err(|error| (Step::Bridge, error))?;
            Ok(privilege)
        });
        match tried {
            Ok(privilege) => Attempt::Done(privilege),
            Err((step, error)) => Attempt::Failed(step, error),
        }
    }

    fn encode(self) -> i32 {
        match self {
            Attempt::Done(Privilege::Root) => AS_ROOT,
            Attempt::Done(Privilege::UserNamespace) => IN_USER_NAMESPACE,
            Attempt::Failed(step, error) => ((step as i32) << STEP_SHIFT) | error.raw_os_error(),
        }
    }

    /// A number that no attempt gives is the error of a process that could not be started.
    fn decode(error: io::Error) -> Result<Privilege, Refusal> {
        const NAMESPACE: i32 = Step::Namespace as i32;
        const MAP: i32 = Step::Map as i32;
        const TAP: i32 = Step::Tap as i32;
        const BRIDGE: i32 = Step::Bridge as i32;
        let code = error.raw_os_error().unwrap_or(0);
        let cause = io::Error::from_raw_os_error(code & ((1 << STEP_SHIFT) - 1));
        match code >> STEP_SHIFT {
            _ if code == AS_ROOT => Ok(Privilege::Root),
            _ if code == IN_USER_NAMESPACE => Ok(Privilege::UserNamespace),
            NAMESPACE => Err(Refusal::Namespaces(cause)),
            MAP => Err(Refusal::Powerless(cause)),
            TAP => Err(Refusal::Tap(cause)),
            BRIDGE => Err(Refusal::Bridge(cause)),
            _ => Err(Refusal::Untried(error)),
        }
    }
}

/// Which step it was that root in a user namespace got no network in it: there may be none left, or no right to one.
fn in_user_namespace(error: Errno) -> Step {
    if error == Errno::PERM { Step::Map } else { Step::Namespace }
}

/// A tap that is gone with its descriptor.
fn make_tap() -> Result<(), Errno> {
    let tun = rustix::fs::open(c"/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: all zeros is a valid ifreq: an empty name, no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    call(&tun, libc::TUNSETIFF, (&raw mut request).cast())
}

/// A bridge that is gone with its namespace.
fn make_bridge() -> Result<(), Errno> {
    /// `linux/sockios.h`
    const SIOCBRADDBR: libc::Ioctl = 0x89a0;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    call(&socket, SIOCBRADDBR, c"ferry-br".as_ptr().cast_mut().cast())
}

fn call(file: &OwnedFd, request: libc::Ioctl, argument: *mut libc::c_void) -> Result<(), Errno> {
    // SAFETY: the callers pass what the request is documented to take, and it lives until the call returns.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_tried_survives_the_way_back() {
        let encoded = |attempt: Attempt| io::Error::from_raw_os_error(attempt.encode());
        assert_eq!(Attempt::decode(encoded(Attempt::Done(Privilege::Root))).unwrap(), Privilege::Root);
        let user = encoded(Attempt::Done(Privilege::UserNamespace));
        assert_eq!(Attempt::decode(user).unwrap(), Privilege::UserNamespace);
        let refusal = Attempt::decode(encoded(Attempt::Failed(Step::Tap, Errno::ACCESS))).unwrap_err();
        assert!(matches!(refusal, Refusal::Tap(cause) if cause.raw_os_error() == Some(libc::EACCES)));
        let unstarted = Attempt::decode(io::Error::from_raw_os_error(libc::EAGAIN)).unwrap_err();
        assert!(matches!(unstarted, Refusal::Untried(_)));
    }

    #[test]
    fn trying_leaves_this_process_where_it_was() {
        let before = fs::read_link("/proc/self/ns/net").unwrap();
        let user = fs::read_link("/proc/self/ns/user").unwrap();
        match permitted() {
            Ok(privilege) => println!("network namespaces {}", privilege.in_words()),
            Err(refusal) => println!("{refusal}: {}", refusal.mend()),
        }
        assert_eq!(fs::read_link("/proc/self/ns/net").unwrap(), before);
        assert_eq!(fs::read_link("/proc/self/ns/user").unwrap(), user);
    }
}
