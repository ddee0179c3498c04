//! Which MSRs make up a vCPU's state.
//!
//! The list is KVM's own (KVM_GET_MSR_INDEX_LIST) plus those it saves elsewhere or not at all, minus those that have no
//! part in a guest's state; and of the rest those that this host's KVM reads and writes for a vCPU like this one. That is
//! found out once, when the vCPU is made, and never while a guest is paused.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use serde::{Deserialize, Serialize};

use crate::kvm::CallError;

// arch/x86/include/asm/msr-index.h
pub(super) const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_APICBASE: u32 = 0x1b;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
pub(super) const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
const MSR_IA32_CR_PAT: u32 = 0x277;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MSR_EFER: u32 = 0xc000_0080;
// arch/x86/include/uapi/asm/kvm_para.h
const MSR_KVM_WALL_CLOCK: u32 = 0x11;
const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;

/// Not in KVM's list, or only in some kernels': variable and fixed MTRRs, SYSENTER and SYSCALL entries, segment bases,
/// TSC_AUX.
const ADDED: &[u32] = &[
    MSR_IA32_APICBASE,
    0x174,
    0x175,
    0x176,
    MSR_IA32_MISC_ENABLE,
    MSR_IA32_CR_PAT,
    MSR_EFER,
    0x200,
    0x201,
    0x202,
    0x203,
    0x204,
    0x205,
    0x206,
    0x207,
    0x208,
    0x209,
    0x20a,
    0x20b,
    0x20c,
    0x20d,
    0x20e,
    0x20f,
    0x250,
    0x258,
    0x259,
    0x268,
    0x269,
    0x26a,
    0x26b,
    0x26c,
    0x26d,
    0x26e,
    0x26f,
    MSR_MTRR_DEF_TYPE,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

/// Whether an MSR has no part in a guest's state.
fn is_left_out(index: u32) -> bool {
    match index {
        // Writing these makes KVM write the wall clock at boot into guest memory. The guest has read it long since, and
        // restoring must not change memory.
        MSR_KVM_WALL_CLOCK | MSR_KVM_WALL_CLOCK_NEW => true,
        // Asynchronous page faults, PV end-of-interrupt: not given to guests.
        0x4b56_4d02 | 0x4b56_4d04 | 0x4b56_4d06 | 0x4b56_4d07 | 0x4b56_4d08 => true,
        // Hyper-V's: not given.
        0x4000_0000..=0x4000_01ff => true,
        // VMX's: no nested machines.
        0x480..=0x493 => true,
        // The local APIC's registers: KVM_GET_LAPIC has them.
        0x800..=0x8ff => true,
        // Performance counters, of Intel and of AMD: not given.
        0xc1..=0xc8
        | 0x186..=0x18d
        | 0x309..=0x30c
        | 0x345
        | 0x38d..=0x390
        | 0x3f1
        | 0x3f2
        | 0x4c1..=0x4c8 => true,
        0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b | 0xc000_0300..=0xc000_0303 => true,
        // Microcode revision, SMM count and base, platform information: the host's, not the guest's.
        0x8b | 0x34 | 0x9e | 0xce | 0x140 => true,
        _ => false,
    }
}

/// One MSR and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Msr {
    pub(crate) index: u32,
    pub(crate) value: u64,
}

/// What firmware leaves for a kernel to find, as bits to set. MTRRs on, and all memory write-back by default: with them off
/// Linux takes it that the firmware forbids caching control, and does without page attributes, too. Fast string operations.
pub(super) const SET_AT_BOOT: [(u32, u64); 2] = [(MSR_MTRR_DEF_TYPE, 0x806), (MSR_IA32_MISC_ENABLE, 1)];

/// All MSRs of one vCPU, in the order in which they are written.
pub(super) fn buffer_for(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Msrs, CallError> {
    let listed = kvm.get_msr_index_list().map_err(CallError::of("KVM_GET_MSR_INDEX_LIST"))?;
    let mut indices: Vec<u32> =
        listed.as_slice().iter().chain(ADDED).copied().filter(|index| !is_left_out(*index)).collect();
    indices.sort_unstable_by_key(|index| (place(*index), *index));
    indices.dedup();
    let mut entries: Vec<kvm_msr_entry> =
        indices.into_iter().map(|index| kvm_msr_entry { index, ..Default::default() }).collect();
    keep_accepted(&mut entries, "KVM_GET_MSRS", |msrs| vcpu.get_msrs(msrs))?;
    // What reads but does not take its own value back could not be restored. The TSC is left alone: it is running, and
    // known to be writable.
    keep_accepted(&mut entries, "KVM_SET_MSRS", |msrs| {
        let count = msrs.as_slice().len();
        match msrs.as_slice().first() {
            Some(first) if first.index == MSR_IA32_TSC => {
                let rest = from_entries(&msrs.as_slice()[1..]);
                vcpu.set_msrs(&rest).map(|done| done + 1)
            }
            Some(_) => vcpu.set_msrs(msrs),
            None => Ok(count),
        }
    })?;
    Ok(from_entries(&entries))
}

/// The order of writing: the TSC before all that is counted from it, the deadline after all else.
fn place(index: u32) -> u8 {
    match index {
        MSR_IA32_TSC => 0,
        MSR_KVM_SYSTEM_TIME => 2,
        MSR_IA32_TSC_DEADLINE => 3,
        _ => 1,
    }
}

/// Drops the entries that `call` stops at: it handles them in order and says how many it did.
fn keep_accepted(
    entries: &mut Vec<kvm_msr_entry>,
    name: &'static str,
    call: impl Fn(&mut Msrs) -> Result<usize, kvm_ioctls::Error>,
) -> Result<(), CallError> {
    let mut accepted = Vec::with_capacity(entries.len());
    let mut rest = std::mem::take(entries);
    while !rest.is_empty() {
        let mut msrs = from_entries(&rest);
        let done = call(&mut msrs).map_err(CallError::of(name))?;
        accepted.extend_from_slice(&msrs.as_slice()[..done]);
        rest.drain(..(done + 1).min(rest.len()));
    }
    *entries = accepted;
    Ok(())
}

/// The first of `state` that means something and that `here`, the MSRs of this host, lacks. One that is 0 means nothing: an
/// older KVM than the one that saved it does without.
pub(super) fn lacking(state: &[Msr], here: &Msrs) -> Option<Msr> {
    if are_the_same(state, here) {
        return None;
    }
    state.iter().find(|msr| msr.value != 0 && !has(here, msr.index)).copied()
}

/// What to write of `state` where there are the MSRs of `here`, in the state's order.
pub(super) fn entries(state: &[Msr], here: &Msrs) -> Vec<kvm_msr_entry> {
    let all = are_the_same(state, here);
    let kept = state.iter().filter(|msr| all || has(here, msr.index));
    kept.map(|msr| kvm_msr_entry { index: msr.index, data: msr.value, ..Default::default() }).collect()
}

/// Whether they are the same ones, as they are between two hosts with one kernel: looking for each would cost more than
/// writing it.
fn are_the_same(state: &[Msr], here: &Msrs) -> bool {
    state.iter().map(|msr| msr.index).eq(here.as_slice().iter().map(|entry| entry.index))
}

fn has(here: &Msrs, index: u32) -> bool {
    here.as_slice().iter().any(|entry| entry.index == index)
}

/// Entries as KVM takes them.
pub(super) fn from_entries(entries: &[kvm_msr_entry]) -> Msrs {
    Msrs::from_entries(entries).expect("fewer MSRs than a kvm_msrs holds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_left_out_and_what_means_something_is_missed() {
        let here: Vec<kvm_msr_entry> =
            [1, 2, 3].map(|index| kvm_msr_entry { index, ..Default::default() }).into();
        let here = from_entries(&here);
        let msr = |index, value| Msr { index, value };
        let written =
            |state: &[Msr]| entries(state, &here).iter().map(|entry| entry.index).collect::<Vec<_>>();
        let same = [msr(1, 1), msr(2, 2), msr(3, 3)];
        assert_eq!((lacking(&same, &here), written(&same)), (None, vec![1, 2, 3]));
        let more = [msr(1, 1), msr(4, 0), msr(3, 3)];
        assert_eq!((lacking(&more, &here), written(&more)), (None, vec![1, 3]));
        let too_much = [msr(1, 1), msr(4, 7)];
        assert_eq!(lacking(&too_much, &here), Some(msr(4, 7)));
    }

    #[test]
    fn refused_entries_are_dropped_wherever_they_stand() {
        for refused in [vec![], vec![0], vec![5], vec![9], vec![0, 1, 5, 8, 9], (0..10).collect::<Vec<u32>>()]
        {
            let mut entries: Vec<kvm_msr_entry> =
                (0..10).map(|index| kvm_msr_entry { index, ..Default::default() }).collect();
            keep_accepted(&mut entries, "test", |msrs| {
                let entries = msrs.as_slice();
                Ok(entries.iter().position(|entry| refused.contains(&entry.index)).unwrap_or(entries.len()))
            })
            .expect("the call never fails");
            let kept: Vec<u32> = entries.iter().map(|entry| entry.index).collect();
            let expected: Vec<u32> = (0..10).filter(|index| !refused.contains(index)).collect();
            assert_eq!(kept, expected);
        }
    }
}
