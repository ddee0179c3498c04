//! vCPUs: one thread each, parked but for the time the guest runs.
//!
//! - `parking`: orders to the thread, and its answers;
//! - `kick`: getting a vCPU out of the guest;
//! - `thread`: running the guest, and its exits;
//! - `state`: what a vCPU's state is, and why it is read and written in that order;
//! - `msrs`: which MSRs belong to it;
//! - `tsc`: how its time goes on elsewhere;
//! - `xsave`: its extended registers.

pub(crate) mod first_pages;
mod kick;
mod msrs;
mod parking;
pub(crate) mod state;
mod thread;
pub(crate) mod tsc;
mod xsave;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vmm_sys_util::signal::Killable;

use self::kick::ImmediateExit;
use self::parking::{Order, Parking};
use self::state::{StateBuffers, VcpuRestoreError, VcpuState};
use self::thread::VcpuThread;
use self::tsc::{Gap, Reference};
pub(crate) use self::xsave::xsave_bytes;
use crate::cpu::{CpuModel, vcpu_leaves};
use crate::devices::Bus;
use crate::event::EventSender;
use crate::kvm::CallError;

/// How often a vCPU that does not answer is kicked anew. One kick is enough by design; a vCPU that waits for a missing
/// page cannot answer, and nothing is lost by asking again.
const KICK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A vCPU could not be made.
#[derive(Debug, Error)]
pub enum VcpuCreateError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No thread for it.
    #[error("start its thread")]
    Thread(#[source] io::Error),
}

/// A vCPU and the buffers for its state. Its thread holds the lock while the guest runs.
#[derive(Debug)]
struct Vcpu {
    fd: VcpuFd,
    /// Lies in `fd`'s mapping.
    immediate_exit: Arc<ImmediateExit>,
    buffers: StateBuffers,
}

/// One vCPU, as its owner has it.
#[derive(Debug)]
pub(crate) struct VcpuHandle {
    vcpu: Arc<Mutex<Vcpu>>,
    immediate_exit: Arc<ImmediateExit>,
    parking: Arc<Parking>,
    /// `None` once it has left.
    thread: Option<JoinHandle<()>>,
}

impl VcpuHandle {
    /// Makes vCPU `index` of `count`, with its CPUID set and its thread parked.
    pub(crate) fn new(
        kvm: &Kvm,
        vm: &VmFd,
        cpu: &CpuModel,
        (index, count): (u8, u8),
        bus: Arc<Bus>,
        events: EventSender,
    ) -> Result<VcpuHandle, VcpuCreateError> {
        kick::install_handler()?;
        let mut fd = vm.create_vcpu(u64::from(index)).map_err(CallError::of("KVM_CREATE_VCPU"))?;
        let mut entries: Vec<kvm_cpuid_entry2> = cpu.leaves.iter().map(Into::into).collect();
        vcpu_leaves::adapt(&mut entries, index, count);
        let cpuid = CpuId::from_entries(&entries).expect("a model has no more leaves than KVM takes");
        // CPUID before all else: it decides which registers and MSRs there are.
        fd.set_cpuid2(&cpuid).map_err(CallError::of("KVM_SET_CPUID2"))?;
        let buffers = StateBuffers::new(kvm, vm, &fd)?;
        // SAFETY: whoever holds the byte also holds the vCPU: both are fields of `VcpuHandle` and of `Vcpu`, and
        // `VcpuHandle` keeps `vcpu` as long as itself.
        let immediate_exit = Arc::new(unsafe { ImmediateExit::of(&mut fd) });
        let vcpu = Vcpu { fd, immediate_exit: Arc::clone(&immediate_exit), buffers };
        let (vcpu, parking) = (Arc::new(Mutex::new(vcpu)), Arc::new(Parking::new()));
        let life = VcpuThread { index, vcpu: Arc::clone(&vcpu), parking: Arc::clone(&parking), bus, events };
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || life.run())
            .map_err(VcpuCreateError::Thread)?;
        Ok(VcpuHandle { vcpu, immediate_exit, parking, thread: Some(thread) })
    }

    /// Lets the guest run on.
    pub(crate) fn run(&self) {
        self.parking.give(Order::Run);
    }

    /// Asks the vCPU out of the guest; [`wait_parked`](Self::wait_parked) says when it is.
    pub(crate) fn ask_to_park(&self) {
        self.parking.give(Order::Park);
        self.kick();
    }

    /// Waits until the vCPU is out of the guest, at most `patience`. Returns whether it is.
    pub(crate) fn wait_parked(&self, patience: Duration) -> bool {
        let mut left = patience;
        while !self.parking.wait_for_answer(left.min(KICK_AGAIN_AFTER)) {
            left = left.saturating_sub(KICK_AGAIN_AFTER);
            if left.is_zero() {
                return false;
            }
            self.kick();
        }
        true
    }

    /// Asks the thread to end.
    pub(crate) fn ask_to_leave(&self) {
        self.parking.give(Order::Leave);
        self.kick();
    }

    /// Waits at most `patience` for the thread to end. Returns whether it has.
    pub(crate) fn wait_left(&mut self, patience: Duration) -> bool {
        /// Between two looks at a thread that ends.
        const LOOK_EVERY: Duration = Duration::from_micros(200);
        let mut waited = Duration::ZERO;
        while let Some(thread) = &self.thread {
            if thread.is_finished() {
                // Joined so that its resources are gone; a panic in it has been printed already.
                let _ = self.thread.take().map(JoinHandle::join);
                return true;
            }
            if waited >= patience {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
            waited += LOOK_EVERY;
            if waited.as_micros().is_multiple_of(KICK_AGAIN_AFTER.as_micros()) {
                self.kick();
            }
        }
        true
    }

    /// Reads the state. Call it only when parked, or it waits for that.
    pub(crate) fn save<T>(&self, with: impl FnOnce(&VcpuState) -> T) -> Result<T, CallError> {
        let mut vcpu = self.lock();
        let Vcpu { fd, buffers, .. } = &mut *vcpu;
        buffers.save(fd).map(with)
    }

    /// Checks a state against this vCPU without touching it.
    pub(crate) fn check(&self, state: &VcpuState, tsc_can_scale: bool) -> Result<(), VcpuRestoreError> {
        self.lock().buffers.check(state, tsc_can_scale)
    }

    /// Tells the guest that it was paused for so long that its watchdogs may bark. Call it only when parked.
    pub(crate) fn tell_of_pause(&self) {
        state::tell_of_pause(&self.lock().fd);
    }

    /// Writes the state; `gap` is the wall time since it was read. All vCPUs of a machine share `reference`, first one
    /// first.
    pub(crate) fn restore(
        &self,
        state: &VcpuState,
        gap: &Gap,
        reference: &mut Option<Reference>,
    ) -> Result<(), VcpuRestoreError> {
        let mut vcpu = self.lock();
        let Vcpu { fd, buffers, .. } = &mut *vcpu;
        buffers.restore(fd, state, gap, reference)
    }

    /// Sets the registers a kernel is entered with.
    pub(crate) fn enter_at(
        &self,
        change: impl FnOnce(&mut kvm_bindings::kvm_regs, &mut kvm_bindings::kvm_sregs),
    ) -> Result<(), CallError> {
        let vcpu = self.lock();
        let mut regs = vcpu.fd.get_regs().map_err(CallError::of("KVM_GET_REGS"))?;
        let mut sregs = vcpu.fd.get_sregs().map_err(CallError::of("KVM_GET_SREGS"))?;
        change(&mut regs, &mut sregs);
        vcpu.fd.set_sregs(&sregs).map_err(CallError::of("KVM_SET_SREGS"))?;
        vcpu.fd.set_regs(&regs).map_err(CallError::of("KVM_SET_REGS"))
    }

    /// Sets what firmware would have left in MSRs for a kernel to find.
    pub(crate) fn set_boot_msrs(&self) -> Result<(), CallError> {
        let vcpu = self.lock();
        for (index, bits) in msrs::SET_AT_BOOT {
            let mut msr = msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]);
            // A CPU that lacks one is none the worse for it.
            if vcpu.fd.get_msrs(&mut msr).map_err(CallError::of("KVM_GET_MSRS"))? == 1 {
                msr.as_mut_slice()[0].data |= bits;
                vcpu.fd.set_msrs(&msr).map_err(CallError::of("KVM_SET_MSRS"))?;
            }
        }
        Ok(())
    }

    fn kick(&self) {
        // The order stands already. The flag before the signal: see `kick`.
        self.immediate_exit.set(true);
        if let Some(thread) = &self.thread {
            // Fails only for a thread that has ended, which needs no kick.
            let _ = thread.kill(kick::signal());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().expect("a vCPU's thread does not panic")
    }
}
