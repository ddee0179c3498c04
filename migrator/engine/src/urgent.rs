//! Threads that a vCPU waits for should not wait for others, nor it for them.

use std::{panic::resume_unwind, thread, time::Duration};

use linux_host::scheduling::SHORTEST_SLICE;

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
            Priority::Foremost | Priority::Urgent | Priority::Frames | Priority::Preparation => {
                SHORTEST_SLICE
            }
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
    linux_host::scheduling::set_nice(to.nice());
    if !matches!(to, Priority::Foremost) {
        linux_host::scheduling::step_back();
    }
    // What goes first has no slice, but where that is not permitted it has this.
    linux_host::scheduling::set_slice(to.slice());
    if matches!(to, Priority::Foremost) && !linux_host::scheduling::go_first() {
        tracing::debug!("no permission to go before all other threads");
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
