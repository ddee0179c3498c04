//! How a vCPU's time stamp counter goes on in another machine.
//!
//! Writing the MSR is not enough. KVM takes a value that lies within a second of what it expects for an attempt to
//! synchronise vCPUs, and keeps the offset it has (`kvm_synchronize_tsc` in arch/x86/kvm/x86.c); after a rehearsal that is
//! the rehearsal's. If the wall clock here is behind the other host's, that offset is too small by up to the rehearsal's
//! whole pause, and a guest whose pause is shorter than that would see its TSC turn back. So the offset is set itself,
//! where KVM lets it be set: for the first vCPU from its saved value, for the others as far from it as they were.

use std::time::{Duration, Instant};

use kvm_bindings::kvm_msr_entry;
use kvm_ioctls::VcpuFd;

use super::msrs::{self, MSR_IA32_TSC};
use super::state::VcpuState;
use crate::kvm::{CallError, tsc_offset};

/// The wall time since a state was read; it grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    then: Duration,
    at: Instant,
}

impl Gap {
    /// A gap that is `then` long at this instant.
    pub(crate) fn of(then: Duration) -> Gap {
        Gap { then, at: Instant::now() }
    }

    /// How long it was when it was found.
    pub(super) fn then(&self) -> Duration {
        self.then
    }

    /// How long it is by now.
    pub(crate) fn now(&self) -> Duration {
        self.then + self.at.elapsed()
    }
}

/// The offset of the first vCPU, as saved and as it is here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference {
    saved: u64,
    here: u64,
}

/// TSC ticks in `gap` at `khz`.
pub(super) fn ticks(gap: Duration, khz: u32) -> u64 {
    u64::try_from(gap.as_nanos() * u128::from(khz) / 1_000_000).unwrap_or(u64::MAX)
}

/// Sets a vCPU's offset, after its MSRs. `reference` is filled by the first vCPU.
pub(super) fn go_on(
    vcpu: &VcpuFd,
    state: &VcpuState,
    gap: &Gap,
    reference: &mut Option<Reference>,
) -> Result<(), CallError> {
    let Some(saved_tsc) = state.msrs.iter().find(|msr| msr.index == MSR_IA32_TSC) else {
        return Ok(());
    };
    // A host that does not tell offsets: all alike, as Linux guests have them.
    let saved = state.tsc_offset.unwrap_or(0);
    let here = match reference {
        Some(first) => first.here.wrapping_add(saved.wrapping_sub(first.saved)),
        None => {
            let named = |source| CallError { call: "KVM_GET_DEVICE_ATTR", source };
            let (offset, tsc) = (tsc_offset::get(vcpu).map_err(named)?, read(vcpu)?);
            let wanted = saved_tsc.value.wrapping_add(ticks(gap.now(), state.tsc_khz));
            offset.wrapping_add(wanted.wrapping_sub(tsc))
        }
    };
    tsc_offset::set(vcpu, here).map_err(|source| CallError { call: "KVM_SET_DEVICE_ATTR", source })?;
    reference.get_or_insert(Reference { saved, here });
    Ok(())
}

fn read(vcpu: &VcpuFd) -> Result<u64, CallError> {
    let mut msr = msrs::from_entries(&[kvm_msr_entry { index: MSR_IA32_TSC, ..Default::default() }]);
    vcpu.get_msrs(&mut msr).map_err(CallError::of("KVM_GET_MSRS"))?;
    Ok(msr.as_slice()[0].data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_the_frequency() {
        assert_eq!(ticks(Duration::from_millis(3), 2_000_000), 6_000_000);
        assert_eq!(ticks(Duration::from_secs(u64::MAX), u32::MAX), u64::MAX);
        assert_eq!(ticks(Duration::ZERO, 2_000_000), 0);
    }
}
