//! A vCPU's state: what it is, and in which order it is read and written.

use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::msrs::{self, MSR_IA32_TSC, Msr};
use crate::cpu::same_frequency;
use crate::kvm::CallError;
use crate::state::Bytes;

/// Most MSRs a state may carry.
pub(crate) const MAX_MSRS: usize = 1024;
/// Most bytes of extended registers a state may carry: AVX-512 needs 2.7 KiB, AMX's tiles 11.
pub(crate) const MAX_XSAVE_BYTES: usize = 64 << 10;

/// After a gap this long the guest is told that it was paused, so that its watchdogs do not take it for a hang.
const WATCHDOG_GAP: Duration = Duration::from_secs(1);

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
    /// An MSR this host will not write.
    #[error("this host refuses to write MSR {index:#x}")]
    Msr {
        /// Its number.
        index: u32,
    },
}

/// Buffers for one vCPU's state, made once.
#[derive(Debug)]
pub(super) struct StateBuffers {
    state: VcpuState,
    msrs: Msrs,
    xsave: Xsave,
    /// Bytes of extended registers, the header of 4096 included.
    xsave_bytes: usize,
    xsave_is_version_2: bool,
    /// This host has XSAVE, and with it XCR0. Without, KVM knows no such register.
    has_xcrs: bool,
}

impl StateBuffers {
    pub(super) fn new(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd) -> Result<StateBuffers, CallError> {
        let asked = vm.check_extension_int(kvm_ioctls::Cap::Xsave2);
        let plain = size_of::<kvm_xsave>();
        let xsave_bytes = usize::try_from(asked).unwrap_or(0).max(plain);
        let extra = (xsave_bytes - plain).div_ceil(size_of::<u32>());
        let xsave = Xsave::new(extra).expect("an area of some KiB");
        let tsc_khz = vcpu.get_tsc_khz().map_err(CallError::of("KVM_GET_TSC_KHZ"))?;
        let state = VcpuState { tsc_khz, ..VcpuState::default() };
        Ok(StateBuffers {
            state,
            msrs: msrs::buffer_for(kvm, vcpu)?,
            xsave,
            xsave_bytes,
            xsave_is_version_2: asked > 0,
            has_xcrs: vm.check_extension(kvm_ioctls::Cap::Xcrs),
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
        self.read_xsave(vcpu)?;
        let state = &mut self.state;
        if self.has_xcrs {
            state.xcrs = vcpu.get_xcrs().map_err(CallError::of("KVM_GET_XCRS"))?;
        }
        state.debug_regs = vcpu.get_debug_regs().map_err(CallError::of("KVM_GET_DEBUGREGS"))?;
        state.events = vcpu.get_vcpu_events().map_err(CallError::of("KVM_GET_VCPU_EVENTS"))?;
        // LAPIC before MSRs: a timer that fires between the two is then still armed in the deadline MSR or already gone
        // from it, but never read as armed in neither.
        state.lapic = vcpu.get_lapic().map_err(CallError::of("KVM_GET_LAPIC"))?;
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
        let beyond = state.xsave.0.get(self.xsave_bytes..).unwrap_or_default();
        if beyond.iter().any(|byte| *byte != 0) {
            return Err(VcpuRestoreError::ExtendedRegisters { here: self.xsave_bytes });
        }
        if !tsc_can_scale && !same_frequency(state.tsc_khz, self.state.tsc_khz) {
            return Err(VcpuRestoreError::TscFrequency {
                state_khz: state.tsc_khz,
                here_khz: self.state.tsc_khz,
            });
        }
        Ok(())
    }

    /// Writes all of a vCPU's state. `gap` is the wall time since it was read.
    pub(super) fn restore(
        &mut self,
        vcpu: &VcpuFd,
        state: &VcpuState,
        gap: Duration,
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
        self.write_xsave(vcpu, &state.xsave.0)?;
        // LAPIC before MSRs: the deadline MSR is only taken once the timer is in deadline mode.
        vcpu.set_lapic(&state.lapic).map_err(CallError::of("KVM_SET_LAPIC"))?;
        write_msrs(vcpu, &state.msrs, tsc_ticks(gap, state.tsc_khz))?;
        vcpu.set_debug_regs(&state.debug_regs).map_err(CallError::of("KVM_SET_DEBUGREGS"))?;
        // Events last: the calls above may raise or drop some.
        vcpu.set_vcpu_events(&state.events).map_err(CallError::of("KVM_SET_VCPU_EVENTS"))?;
        if gap >= WATCHDOG_GAP {
            // EINVAL: the guest has no kvmclock to be told by.
            let _ = vcpu.kvmclock_ctrl();
        }
        Ok(())
    }

    fn read_xsave(&mut self, vcpu: &VcpuFd) -> Result<(), CallError> {
        let bytes = &mut self.state.xsave.0;
        bytes.clear();
        if self.xsave_is_version_2 {
            // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 asks for, and no state component was enabled for
            // this process (arch_prctl) since.
            unsafe { vcpu.get_xsave2(&mut self.xsave) }.map_err(CallError::of("KVM_GET_XSAVE2"))?;
            extend_with_words(bytes, &self.xsave.as_fam_struct_ref().xsave.region);
            extend_with_words(bytes, self.xsave.as_slice());
        } else {
            let xsave = vcpu.get_xsave().map_err(CallError::of("KVM_GET_XSAVE"))?;
            extend_with_words(bytes, &xsave.region);
        }
        Ok(())
    }

    fn write_xsave(&mut self, vcpu: &VcpuFd, bytes: &[u8]) -> Result<(), CallError> {
        let mut words = bytes
            .chunks(size_of::<u32>())
            .map(|chunk| {
                let mut word = [0; size_of::<u32>()];
                word[..chunk.len()].copy_from_slice(chunk);
                u32::from_ne_bytes(word)
            })
            .chain(std::iter::repeat(0));
        // SAFETY: only the register area is written, never the length.
        let region = unsafe { &mut self.xsave.as_mut_fam_struct().xsave.region };
        region.iter_mut().for_each(|to| *to = words.next().unwrap_or(0));
        self.xsave.as_mut_slice().iter_mut().for_each(|to| *to = words.next().unwrap_or(0));
        // SAFETY: the buffer has the size that this host's KVM reads (see `read_xsave`); without KVM_CAP_XSAVE2 that is
        // the plain 4096 bytes.
        unsafe { vcpu.set_xsave2(&self.xsave) }.map_err(CallError::of("KVM_SET_XSAVE"))
    }
}

fn extend_with_words(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}

/// TSC ticks in `gap` at `khz`.
fn tsc_ticks(gap: Duration, khz: u32) -> u64 {
    u64::try_from(gap.as_nanos() * u128::from(khz) / 1_000_000).unwrap_or(u64::MAX)
}

/// Writes MSRs in the order of the state, the TSC moved on by `tsc_ticks`, so that a guest that reads it sees time pass
/// and never turn back.
fn write_msrs(vcpu: &VcpuFd, msrs: &[Msr], tsc_ticks: u64) -> Result<(), VcpuRestoreError> {
    let entries: Vec<kvm_msr_entry> = msrs
        .iter()
        .map(|msr| {
            let moved_on = if msr.index == MSR_IA32_TSC { tsc_ticks } else { 0 };
            kvm_msr_entry { index: msr.index, data: msr.value.wrapping_add(moved_on), ..Default::default() }
        })
        .collect();
    let written = vcpu.set_msrs(&msrs::from_entries(&entries)).map_err(CallError::of("KVM_SET_MSRS"))?;
    match msrs.get(written) {
        None => Ok(()),
        Some(refused) => Err(VcpuRestoreError::Msr { index: refused.index }),
    }
}

const _: () = assert!(MAX_MSRS > KVM_MAX_CPUID_ENTRIES, "room for every MSR a KVM lists");
