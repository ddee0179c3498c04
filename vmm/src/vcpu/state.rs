//! A vCPU's state: what it is, and in which order it is read and written.

use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::msrs::{self, MSR_IA32_TSC, Msr};
use super::tsc::{self, Gap, Reference};
use super::xsave::ExtendedRegisters;
use crate::cpu::same_frequency;
use crate::kvm::{CallError, tsc_offset};
use crate::state::Bytes;

/// Most MSRs a state may carry.
pub(crate) const MAX_MSRS: usize = 1024;
/// Most bytes of extended registers a state may carry: AVX-512 needs 2.7 KiB, AMX's tiles 11.
pub(crate) const MAX_XSAVE_BYTES: usize = 64 << 10;

/// After a gap this long the guest is told that it was paused, so that its watchdogs do not take it for a hang. Linux looks
/// at its clocks twice a second, and says so when a second passed between two looks.
pub(crate) const WATCHDOG_GAP: Duration = Duration::from_millis(100);

/// Tells a guest with a kvmclock that it was paused.
pub(super) fn tell_of_pause(vcpu: &VcpuFd) {
    // EINVAL: the guest has no kvmclock to be told by.
    let _ = vcpu.kvmclock_ctrl();
}

/// All of a vCPU's state but CPUID, which is set when it is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    pub(crate) mp_state: kvm_mp_state,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) xsave: Bytes,
    pub(crate) xcrs: kvm_xcrs,
    pub(crate) debug_regs: kvm_debugregs,
    pub(crate) events: kvm_vcpu_events,
    pub(crate) lapic: kvm_lapic_state,
    pub(crate) tsc_khz: u32,
    /// What KVM adds to the host's TSC, where it tells.
    pub(crate) tsc_offset: Option<u64>,
    pub(crate) msrs: Vec<Msr>,
}

/// A vCPU's state cannot be taken over.
#[derive(Debug, Error)]
pub enum VcpuRestoreError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// More extended registers than this host knows.
    #[error("the state has extended registers beyond the {here} bytes this host has")]
    ExtendedRegisters {
        /// Bytes this host has.
        here: usize,
    },
    /// Another TSC frequency, and no way to make up for it.
    #[error("the time stamp counter of {state_khz} kHz cannot be had here, where it runs at {here_khz} kHz")]
    TscFrequency {
        /// The state's.
        state_khz: u32,
        /// This host's.
        here_khz: u32,
    },
    /// An MSR this host does not have, or will not give this value.
    #[error("this host does not take MSR {index:#x} with the value {value:#x}, which the guest's has")]
    Msr {
        /// Its number.
        index: u32,
        /// The value.
        value: u64,
    },
}

/// Buffers for one vCPU's state, made once.
#[derive(Debug)]
pub(super) struct StateBuffers {
    state: VcpuState,
    msrs: Msrs,
    xsave: ExtendedRegisters,
    /// This host has XSAVE, and with it XCR0. Without, KVM knows no such register.
    has_xcrs: bool,
    /// This host tells the TSC's offset, and takes one.
    has_tsc_offset: bool,
}

impl StateBuffers {
    pub(super) fn new(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<StateBuffers, CallError> {
        let tsc_khz = vcpu.get_tsc_khz().map_err(CallError::of("KVM_GET_TSC_KHZ"))?;
        let state = VcpuState { tsc_khz, ..VcpuState::default() };
        Ok(StateBuffers {
            state,
            msrs: msrs::buffer_for(kvm, vcpu)?,
            xsave: ExtendedRegisters::of(vm),
            has_xcrs: vm.check_extension(kvm_ioctls::Cap::Xcrs),
            has_tsc_offset: tsc_offset::is_known(vcpu),
        })
    }

    /// Reads all of a vCPU's state. The vCPU is out of the guest with no exit outstanding, or its registers would be
    /// those before the instruction that exited.
    pub(super) fn save(&mut self, vcpu: &VcpuFd) -> Result<&VcpuState, CallError> {
        let state = &mut self.state;
        // MP_STATE first: reading it makes KVM act on an INIT or SIPI that has come in, which changes registers and
        // events.
        state.mp_state = vcpu.get_mp_state().map_err(CallError::of("KVM_GET_MP_STATE"))?;
        state.regs = vcpu.get_regs().map_err(CallError::of("KVM_GET_REGS"))?;
        state.sregs = vcpu.get_sregs().map_err(CallError::of("KVM_GET_SREGS"))?;
        self.xsave.read(vcpu, &mut state.xsave.0)?;
        if self.has_xcrs {
            state.xcrs = vcpu.get_xcrs().map_err(CallError::of("KVM_GET_XCRS"))?;
        }
        state.debug_regs = vcpu.get_debug_regs().map_err(CallError::of("KVM_GET_DEBUGREGS"))?;
        state.events = vcpu.get_vcpu_events().map_err(CallError::of("KVM_GET_VCPU_EVENTS"))?;
        // LAPIC before MSRs: a timer that fires between the two is then still armed in the deadline MSR or already gone
        // from it, but never read as armed in neither.
        state.lapic = vcpu.get_lapic().map_err(CallError::of("KVM_GET_LAPIC"))?;
        if self.has_tsc_offset {
            let named = |source| CallError { call: "KVM_GET_DEVICE_ATTR", source };
            state.tsc_offset = Some(tsc_offset::get(vcpu).map_err(named)?);
        }
        let read = vcpu.get_msrs(&mut self.msrs).map_err(CallError::of("KVM_GET_MSRS"))?;
        // The list was tried when the vCPU was made; a refusal now would be a value silently lost.
        if read != self.msrs.as_slice().len() {
            return Err(CallError { call: "KVM_GET_MSRS", source: std::io::ErrorKind::UnexpectedEof.into() });
        }
        state.msrs.clear();
        state
            .msrs
            .extend(self.msrs.as_slice().iter().map(|entry| Msr { index: entry.index, value: entry.data }));
        Ok(&self.state)
    }

    /// Checks what can be checked of a state without touching the vCPU.
    pub(super) fn check(&self, state: &VcpuState, tsc_can_scale: bool) -> Result<(), VcpuRestoreError> {
        if !self.xsave.takes(&state.xsave.0) {
            return Err(VcpuRestoreError::ExtendedRegisters { here: self.xsave.bytes() });
        }
        if let Some(Msr { index, value }) = msrs::lacking(&state.msrs, &self.msrs) {
            return Err(VcpuRestoreError::Msr { index, value });
        }
        if !tsc_can_scale && !same_frequency(state.tsc_khz, self.state.tsc_khz) {
            return Err(VcpuRestoreError::TscFrequency {
                state_khz: state.tsc_khz,
                here_khz: self.state.tsc_khz,
            });
        }
        Ok(())
    }

    /// Writes all of a vCPU's state. `gap` is the wall time since it was read; `reference` is shared by all vCPUs.
    pub(super) fn restore(
        &mut self,
        vcpu: &VcpuFd,
        state: &VcpuState,
        gap: &Gap,
        reference: &mut Option<Reference>,
    ) -> Result<(), VcpuRestoreError> {
        if state.tsc_khz != self.state.tsc_khz && !same_frequency(state.tsc_khz, self.state.tsc_khz) {
            // Before all that counts in TSC ticks: the TSC itself, the deadline.
            vcpu.set_tsc_khz(state.tsc_khz).map_err(CallError::of("KVM_SET_TSC_KHZ"))?;
        }
        vcpu.set_mp_state(state.mp_state).map_err(CallError::of("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&state.regs).map_err(CallError::of("KVM_SET_REGS"))?;
        // SREGS hold EFER and the APIC's base: before the LAPIC, whose mode is in that base, and before the MSRs.
        vcpu.set_sregs(&state.sregs).map_err(CallError::of("KVM_SET_SREGS"))?;
        // XCR0 says which parts of XSAVE exist: before them.
        if state.xcrs.nr_xcrs > 0 {
            vcpu.set_xcrs(&state.xcrs).map_err(CallError::of("KVM_SET_XCRS"))?;
        }
        self.xsave.write(vcpu, &state.xsave.0)?;
        // LAPIC before MSRs: the deadline MSR is only taken once the timer is in deadline mode.
        vcpu.set_lapic(&state.lapic).map_err(CallError::of("KVM_SET_LAPIC"))?;
        self.write_msrs(vcpu, state, tsc::ticks(gap.then(), state.tsc_khz))?;
        if self.has_tsc_offset {
            tsc::go_on(vcpu, state, self.state.tsc_khz, gap, reference)?;
        }
        vcpu.set_debug_regs(&state.debug_regs).map_err(CallError::of("KVM_SET_DEBUGREGS"))?;
        // Events last: the calls above may raise or drop some.
        vcpu.set_vcpu_events(&state.events).map_err(CallError::of("KVM_SET_VCPU_EVENTS"))?;
        if gap.then() >= WATCHDOG_GAP {
            tell_of_pause(vcpu);
        }
        Ok(())
    }

    fn write_msrs(&self, vcpu: &VcpuFd, state: &VcpuState, tsc_ticks: u64) -> Result<(), VcpuRestoreError> {
        let mut entries = msrs::entries(&state.msrs, &self.msrs);
        // The TSC moved on, so that a guest that reads it sees time pass.
        if let Some(tsc) = entries.iter_mut().find(|entry| entry.index == MSR_IA32_TSC) {
            tsc.data = tsc.data.wrapping_add(tsc_ticks);
        }
        let written = vcpu.set_msrs(&msrs::from_entries(&entries)).map_err(CallError::of("KVM_SET_MSRS"))?;
        match entries.get(written) {
            None => Ok(()),
            Some(refused) => Err(VcpuRestoreError::Msr { index: refused.index, value: refused.data }),
        }
    }
}

const _: () = assert!(MAX_MSRS > KVM_MAX_CPUID_ENTRIES, "room for every MSR a KVM lists");
