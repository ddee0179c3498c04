//! Threads that a vCPU waits for should not wait for others, nor it for them.

use std::{
    mem::{size_of, zeroed},
    panic::resume_unwind,
    thread,
    time::Duration,
};

/// How soon a thread gets the processor, against all others on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Priority {
    /// A vCPU waits for every step of it, and it does little at a time: it comes before all that share by weight.
    Foremost,
    /// A vCPU waits for every step of it, and it may move much.
    Urgent,
    /// A guest's network waits for it: it does little at a time, and at once.
    Frames,
    /// As any other thread.
    Normal,
    /// It sends and receives much while guests run, and lets whoever wakes go first.
    Rounds,
    /// As that, and the guest is slow until it is done: vCPUs that spin must not keep it from getting done.
    Push,
    /// It takes a while, before anything moves: guests, the one that is to move among them, come first.
    Preparation,
    /// Nobody waits for it, and the guest may have just started beside it.
    Background,
}

/// The shortest slice there is.
const SHORTEST: Duration = Duration::from_micros(100);
/// Longer than any that was not asked for.
const LONG: Duration = Duration::from_millis(20);
/// The longest there is.
const LONGEST: Duration = Duration::from_millis(100);

impl Priority {
    /// Its share, as a nice value.
    fn nice(self) -> i32 {
        match self {
            Priority::Foremost | Priority::Urgent => -10,
            Priority::Frames | Priority::Normal | Priority::Rounds => 0,
            Priority::Push => -4,
            Priority::Preparation => 5,
            Priority::Background => 19,
        }
    }

    /// How long it may keep a processor from those that wake up with a shorter slice (sched_setattr(2): `sched_runtime`,
    /// since Linux 6.12 heeded for SCHED_OTHER too); zero is the host's own.
    fn slice(self) -> Duration {
        match self {
            Priority::Foremost | Priority::Urgent | Priority::Frames | Priority::Preparation => SHORTEST,
            Priority::Normal => Duration::ZERO,
            Priority::Rounds | Priority::Push => LONG,
            Priority::Background => LONGEST,
        }
    }
}

/// Sets the calling thread's priority. Where more is not permitted the thread goes on as it is: faults
/// and the push then take longer when the host is busy.
pub(crate) fn set_priority(to: Priority) {
    // A fuzzer is behind everybody, whatever it plays.
    if cfg!(feature = "fuzzing") {
        return;
    }
    // SAFETY: plain system calls about the calling thread, with no memory involved.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, to.nice()) };
    if raised != 0 {
        tracing::debug!("no permission to change a thread's priority");
    }
    let is_first = matches!(to, Priority::Foremost);
    if !is_first {
        step_back();
    }
    // What goes first has no slice, but where that is not permitted it has this.
    set_slice(to.slice());
    if is_first && !set_policy(libc::SCHED_FIFO, 1) {
        tracing::debug!("no permission to go before all other threads");
    }
}

/// Puts the calling thread back among those that share processors by weight, if it went before them.
fn step_back() {
    // SAFETY: a call about the calling thread.
    let is_first = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_FIFO;
    if is_first && !set_policy(libc::SCHED_OTHER, 0) {
        tracing::warn!("a thread goes on before all others");
    }
}

/// Puts the calling thread under a policy: under SCHED_FIFO it goes before all that share processors by weight, which have
/// had their share at times and wait for others then, however much they weigh. Returns whether it did.
fn set_policy(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: a call about the calling thread, which reads its last argument.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

/// Sets the calling thread's slice, which needs no permission.
fn set_slice(slice: Duration) {
    // SAFETY: all of its fields are numbers.
    let mut attributes: libc::sched_attr = unsafe { zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_flags = libc::SCHED_FLAG_KEEP_POLICY as u64;
    attributes.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: calls about the calling thread; the last reads `attributes`, whose size it is told.
    let set = unsafe {
        attributes.sched_nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0)
    };
    if set != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a thread's slice stays as it is");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_went_before_all_others_goes_back_among_them() {
        // SAFETY: a call about the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let worker = move || {
            let before = policy();
            set_priority(Priority::Foremost);
            let first = policy();
            set_priority(Priority::Push);
            (before, first, policy())
        };
        let (before, first, after) = thread::spawn(worker).join().unwrap();
        // Where it is not permitted nothing changes.
        assert!(first == libc::SCHED_FIFO || first == before);
        assert_eq!((before, after), (libc::SCHED_OTHER, libc::SCHED_OTHER));
    }
}
