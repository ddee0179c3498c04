//! How a vCPU's time stamp counter goes on in another machine.
//!
//! Writing the MSR is not enough. KVM takes a value that lies within a second of what it expects for an attempt to
//! synchronise vCPUs, and keeps the offset it has (`kvm_synchronize_tsc` in arch/x86/kvm/x86.c); after a rehearsal that is
//! the rehearsal's. If the wall clock here is behind the other host's, that offset is too small by up to the rehearsal's
//! whole pause, and a guest whose pause is shorter than that would see its TSC turn back. So the offset is set itself,
//! where KVM lets it be set: for the first vCPU from its saved value, for the others as far from it as they were.

use std::time::{Duration, Instant};

use kvm_bindings::{KVM_CLOCK_HOST_TSC, kvm_clock_data, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::msrs::{self, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE};
use super::state::VcpuState;
use crate::kvm::{CallError, tsc_offset};

/// The wall time since a state was read; it grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    then: Duration,
    at: Instant,
    clocks: Option<Clocks>,
}

/// What the guest's clock and the hosts' TSCs say of a gap, where both hosts read the two at one instant
/// (KVM_CLOCK_HOST_TSC). A TSC that goes on by this agrees with the clock to the nanosecond; wall time, read beside it,
/// leaves them milliseconds apart now and then, and Linux then gives up the TSC.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// How far the guest's clock went on, in nanoseconds.
    guest_ns: u64,
    /// From the source's TSC to this host's, at the two instants.
    host_ticks: u64,
}

impl Clocks {
    fn between(saved: &kvm_clock_data, here: &kvm_clock_data) -> Option<Clocks> {
        let tells = |clock: &kvm_clock_data| clock.flags & KVM_CLOCK_HOST_TSC != 0;
        (tells(saved) && tells(here)).then(|| Clocks {
            guest_ns: here.clock.saturating_sub(saved.clock),
            host_ticks: here.host_tsc.wrapping_sub(saved.host_tsc),
        })
    }

    /// What is added to a guest's TSC offset.
    fn offset(&self, khz: u32) -> u64 {
        ticks(Duration::from_nanos(self.guest_ns), khz).wrapping_sub(self.host_ticks)
    }
}

impl Gap {
    /// A gap that is `then` long at this instant.
    pub(crate) fn of(then: Duration) -> Gap {
        Gap { then, at: Instant::now(), clocks: None }
    }

    /// Adds what the guest's clock said when the state was saved, and says now that it goes on here.
    pub(crate) fn with_clocks(self, saved: &kvm_clock_data, here: &kvm_clock_data) -> Gap {
        Gap { clocks: Clocks::between(saved, here), ..self }
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

/// Sets a vCPU's offset, after its MSRs. `reference` is filled by the first vCPU. `khz_here` is this host's own frequency.
pub(super) fn go_on(
    vcpu: &VcpuFd,
    state: &VcpuState,
    khz_here: u32,
    gap: &Gap,
    reference: &mut Option<Reference>,
) -> Result<(), CallError> {
    let Some(saved_tsc) = state.msrs.iter().find(|msr| msr.index == MSR_IA32_TSC) else {
        return Ok(());
    };
    // A host that does not tell offsets: all alike, as Linux guests have them.
    let saved = state.tsc_offset.unwrap_or(0);
    // Offsets of a TSC that is scaled count other ticks than the host's.
    let clocks = gap.clocks.filter(|_| state.tsc_offset.is_some() && state.tsc_khz == khz_here);
    let here = match (&reference, clocks) {
        (Some(first), _) => first.here.wrapping_add(saved.wrapping_sub(first.saved)),
        (None, Some(clocks)) => saved.wrapping_add(clocks.offset(state.tsc_khz)),
        (None, None) => {
            let named = |source| CallError { call: "KVM_GET_DEVICE_ATTR", source };
            let (offset, tsc) = (tsc_offset::get(vcpu).map_err(named)?, read(vcpu)?);
            let wanted = saved_tsc.value.wrapping_add(ticks(gap.now(), state.tsc_khz));
            offset.wrapping_add(wanted.wrapping_sub(tsc))
        }
    };
    tsc_offset::set(vcpu, here).map_err(|source| CallError { call: "KVM_SET_DEVICE_ATTR", source })?;
    reference.get_or_insert(Reference { saved, here });
    arm_again(vcpu, state)
}

/// Writes the local APIC's deadline once more: KVM worked out when the timer fires from the offset that was there before,
/// and does not work it out again when the offset is set.
fn arm_again(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), CallError> {
    let deadline = state.msrs.iter().find(|msr| msr.index == MSR_IA32_TSC_DEADLINE && msr.value != 0);
    let Some(deadline) = deadline else { return Ok(()) };
    let entry = kvm_msr_entry { index: deadline.index, data: deadline.value, ..Default::default() };
    match vcpu.set_msrs(&msrs::from_entries(&[entry])).map_err(CallError::of("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(CallError { call: "KVM_SET_MSRS", source: std::io::ErrorKind::InvalidInput.into() }),
    }
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

    #[test]
    fn a_tsc_goes_on_with_the_clock_whatever_the_hosts_tscs_are() {
        let at = |clock, host_tsc| kvm_clock_data {
            clock,
            host_tsc,
            flags: KVM_CLOCK_HOST_TSC,
            ..Default::default()
        };
        // Two hosts at 2 GHz; the guest's clock goes on by 3 ms.
        let (saved, here) = (at(1_000_000, 900), at(4_000_000, 70_000_000_000));
        let clocks = Clocks::between(&saved, &here).expect("both tell");
        let guest_tsc = |offset: u64, host: u64| host.wrapping_add(offset);
        let offset = 12_345u64;
        let after = guest_tsc(offset.wrapping_add(clocks.offset(2_000_000)), here.host_tsc);
        assert_eq!(after - guest_tsc(offset, saved.host_tsc), 6_000_000);
        let silent = kvm_clock_data { flags: 0, ..saved };
        assert!(Clocks::between(&silent, &here).is_none() && Clocks::between(&here, &silent).is_none());
    }
}
