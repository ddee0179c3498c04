//! Threads that a vCPU waits for should not wait for others.

use std::{panic::resume_unwind, thread};

/// How soon a thread gets the processor, against all others on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// A vCPU waits for every step of it.
    Urgent = -10,
    /// Nobody waits for it, and the guest may have just started beside it.
    Background = 19,
    /// It takes a while, before anything moves: guests, the one that is to move among them, come first.
    Preparation = 5,
    /// As any other thread.
    Normal = 0,
    /// The guest is slow until it is done, and vCPUs that spin must not keep it from getting done.
    Push = -4,
}

/// Sets the calling thread's priority. Where more is not permitted the thread goes on as it is: faults
/// and the push then take longer when the host is busy.
pub(crate) fn set_priority(to: Priority) {
    // A fuzzer is behind everybody, whatever it plays.
    if cfg!(feature = "fuzzing") {
        return;
    }
    // SAFETY: plain system calls about the calling thread, with no memory involved.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, to as i32) };
    if raised != 0 {
        tracing::debug!("no permission to change a thread's priority");
    }
}

/// Does `work` with another priority, on a thread of its own: who has lowered a thread's priority may not raise it again.
pub(crate) fn at_priority<T: Send>(priority: Priority, work: impl FnOnce() -> T + Send) -> T {
    let worker = move || {
        set_priority(priority);
        // It was born with its maker's, and whoever waits for the processor has not been asked since.
        thread::yield_now();
        work()
    };
    thread::scope(|scope| scope.spawn(worker).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
