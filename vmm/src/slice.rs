//! How long a thread may keep a processor from those that wake up.
//!
//! Since Linux 6.12 a thread can ask for a slice of its own: one that wakes takes the processor at once from a thread
//! whose slice is longer, and gets no more of it in all (sched_setattr(2): `sched_runtime` of SCHED_OTHER). That needs
//! no permission. Older kernels take the word and ignore it.

use std::mem::{size_of, zeroed};
use std::time::Duration;

/// The shortest there is: for a thread that does little at a time, and that a guest waits for.
pub(crate) const SHORTEST: Duration = Duration::from_micros(100);

/// Sets the calling thread's slice.
pub(crate) fn set(slice: Duration) {
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
