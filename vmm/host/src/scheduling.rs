//! How soon the calling thread gets its processor.
//!
//! Three things are asked of the kernel, each for the calling thread alone. What is not permitted leaves the thread as
//! it is, and is said in the log: a thread that is late is slow, not wrong.

use std::{
    io,
    mem::{size_of, zeroed},
    time::Duration,
};

/// The shortest slice there is: for a thread that does little at a time, and that others wait for.
pub const SHORTEST_SLICE: Duration = Duration::from_micros(100);

/// Sets the share of a processor, as a nice value: from -20, the most, to 19. More than the thread has now needs
/// CAP_SYS_NICE, or a limit that allows it. Returns whether it has it.
pub fn set_nice(nice: i32) -> bool {
    // SAFETY: a plain system call about the calling thread, with no memory involved.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, nice) };
    if set != 0 {
        tracing::debug!(nice, error = %io::Error::last_os_error(), "a thread's share stays as it is");
    }
    set == 0
}

/// Sets how long the thread may keep a processor from those that wake up: one that wakes takes it at once from a thread
/// whose slice is longer, and gets no more of it in all (sched_setattr(2): `sched_runtime` of SCHED_OTHER). Zero is the
/// host's own. Needs no permission; kernels before Linux 6.12 take the word and ignore it.
pub fn set_slice(slice: Duration) {
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
        tracing::debug!(error = %io::Error::last_os_error(), "a thread's slice stays as it is");
    }
}

/// Puts the thread before all that share processors by weight (SCHED_FIFO): those have had their share at times and wait
/// for others then, however much they weigh. For threads that do little at a time, whoever asks them to. Threads it makes
/// do not inherit it. Returns whether it was permitted.
pub fn go_first() -> bool {
    set_policy(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
}

/// Puts the thread back among those that share processors by weight, if it went before them.
pub fn step_back() {
    // The flag stays: taking it back needs CAP_SYS_NICE.
    if is_first() && !set_policy(libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, 0) {
        tracing::warn!(error = %io::Error::last_os_error(), "a thread goes on before all others");
    }
}

fn is_first() -> bool {
    // SAFETY: a call about the calling thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_FIFO
}

fn set_policy(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: a call about the calling thread, which reads its last argument.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Every test asks about a thread of its own: what it sets is gone with it.
    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        thread::spawn(work).join().unwrap()
    }

    fn nice() -> i32 {
        // SAFETY: a call about the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t) }
    }

    #[test]
    fn a_thread_that_went_first_goes_back_among_the_others() {
        let (permitted, first, after) = on_a_thread(|| {
            let permitted = go_first();
            let first = is_first();
            step_back();
            (permitted, first, is_first())
        });
        assert_eq!(first, permitted);
        assert!(!after);
    }

    #[test]
    fn a_thread_may_always_have_less() {
        let (before, set, after) = on_a_thread(|| {
            let before = nice();
            (before, set_nice(before + 1), nice())
        });
        assert!(set);
        assert_eq!(after, before + 1);
    }

    #[test]
    fn a_slice_changes_nothing_but_itself() {
        let (set, after) = on_a_thread(|| {
            set_nice(3);
            let set = nice();
            set_slice(SHORTEST_SLICE);
            (set, nice())
        });
        assert_eq!(after, set);
    }

    #[test]
    fn threads_of_one_that_goes_first_do_not() {
        assert!(!on_a_thread(|| {
            go_first();
            on_a_thread(is_first)
        }));
    }
}
