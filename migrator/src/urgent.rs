//! Threads that a vCPU waits for should not wait for others.

/// Asks for the processor sooner than threads that push pages. Where that is not permitted the
/// thread goes on as it is: faults then take longer when the host is busy.
pub(crate) fn raise_priority() {
    // SAFETY: plain system calls about the calling thread, with no memory involved.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, -10) };
    if raised != 0 {
        tracing::debug!("no permission to raise a thread's priority: page faults wait like everyone");
    }
}
