//! Getting a vCPU out of the guest.
//!
//! `immediate_exit` is set first, then the thread gets a signal (Documentation/virt/kvm/api.rst, KVM_RUN): if the thread
//! is in the guest the signal brings it out, and if it is just about to enter `immediate_exit` turns it back. The signal
//! handler does nothing; no signal is lost and none needs to be remembered.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::kvm::CallError;

/// Number of the kick's signal above SIGRTMIN: away from the first ones, which other code may want.
const SIGNAL_ABOVE_MINIMUM: c_int = 3;

/// The signal that interrupts KVM_RUN.
pub(super) fn signal() -> c_int {
    SIGRTMIN() + SIGNAL_ABOVE_MINIMUM
}

/// Installs the handler that does nothing; without one the signal would end the process.
pub(super) fn install_handler() -> Result<(), CallError> {
    extern "C" fn nothing(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.get().is_none() {
        register_signal_handler(signal(), nothing).map_err(CallError::of("sigaction"))?;
        INSTALLED.get_or_init(|| ());
    }
    Ok(())
}

/// The `immediate_exit` byte of a vCPU's shared page.
#[derive(Debug)]
pub(super) struct ImmediateExit {
    byte: NonNull<AtomicU8>,
}

// SAFETY: the byte is shared with the kernel and other threads, and only ever accessed as an atomic.
unsafe impl Send for ImmediateExit {}
// SAFETY: as for `Send`.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// # Safety
    /// The result must not be used after `vcpu` is gone: the byte lies in its mapping.
    pub(super) unsafe fn of(vcpu: &mut VcpuFd) -> ImmediateExit {
        let byte = NonNull::from(&mut vcpu.get_kvm_run().immediate_exit);
        ImmediateExit { byte: byte.cast() }
    }

    /// While set, KVM_RUN completes an outstanding exit and returns EINTR without entering the guest.
    pub(super) fn set(&self, on: bool) {
        // SAFETY: `of`'s caller keeps the vCPU, and with it the mapping, alive; an `AtomicU8` has the layout of a `u8`.
        unsafe { self.byte.as_ref() }.store(u8::from(on), Ordering::SeqCst);
    }
}
