//! A network namespace, held by a descriptor.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    process::Command,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::{NetworkError, interfaces};

/// What Ferry asks for on short ways, the usual one first: both go by what is lost, and keep no pace.
const CONGESTION_CONTROLS: [&str; 2] = ["cubic", "reno"];

/// The kernel takes it down, with every interface in it, when the last descriptor and the last process is gone.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it but a loopback that works.
    ///
    /// # Errors
    /// If this process may not.
    pub fn new() -> Result<Namespace, NetworkError> {
        in_thread(|| {
            // SAFETY: a new network takes no file descriptor from another thread, and only this one is moved.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(failed("make"))?;
            silence_ipv6();
            interfaces::up("lo")?;
            let file = File::open("/proc/thread-self/ns/net").map_err(failed("open"))?;
            Ok(Namespace { file })
        })?
    }

    /// Gives all TCP connections in it the same congestion control, whatever the host's own is: the first of
    /// [`CONGESTION_CONTROLS`] that the kernel has. Returns which they have.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn set_congestion_control(&self) -> Result<Option<String>, NetworkError> {
        self.run(|| {
            // Each namespace has a setting of its own, and this path leads to that of the calling thread's.
            const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
            // Where none is to be had, the links of all engines have the host's: what is read back tells.
            let _ = CONGESTION_CONTROLS.iter().any(|name| fs::write(SETTING, name).is_ok());
            fs::read_to_string(SETTING).ok().map(|text| text.trim().to_owned())
        })
    }

    /// Runs `work` in it.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
        in_thread(|| {
            enter(self.file.as_fd()).map_err(failed("enter"))?;
            Ok(work())
        })?
    }

    /// Has a command run in it.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn enter(&self, command: &mut Command) -> Result<(), NetworkError> {
        let file = self.file.try_clone().map_err(failed("hold"))?;
        // SAFETY: setns makes one system call, and neither allocates nor locks.
        unsafe { command.pre_exec(move || Ok(enter(file.as_fd())?)) };
        Ok(())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn enter(namespace: BorrowedFd<'_>) -> rustix::io::Result<()> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
}

/// A thread belongs to one namespace at a time, so whoever works in another does so in a thread of its own.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work).map_err(failed("start a thread in"))?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn failed<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> NetworkError {
    move |cause| NetworkError::Namespace { operation, cause: cause.into() }
}

/// Nobody speaks IPv6 here, and interfaces that announce themselves would teach bridges what nobody said. Where it
/// cannot be turned off (no IPv6, or settings that are read-only) the network works as well, with a little chatter.
fn silence_ipv6() {
    for setting in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{setting}/disable_ipv6"), "1").ok();
    }
}
