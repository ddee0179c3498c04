//! The CPU model.

use std::sync::OnceLock;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::check::{self, CpuMismatch};
use super::features;
use crate::kvm::{self, CallError, KvmError};

/// Most leaves a model from outside may have.
const MAX_LEAVES: usize = KVM_MAX_CPUID_ENTRIES;

/// One CPUID leaf and its answer (struct kvm_cpuid_entry2 of linux/kvm.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLeaf {
    /// Leaf: EAX of the question.
    pub function: u32,
    /// Subleaf: ECX of the question, where the leaf has any.
    pub index: u32,
    /// KVM_CPUID_FLAG_*: bit 0 says that the subleaf counts.
    pub flags: u32,
    /// Answer in EAX.
    pub eax: u32,
    /// Answer in EBX.
    pub ebx: u32,
    /// Answer in ECX.
    pub ecx: u32,
    /// Answer in EDX.
    pub edx: u32,
}

/// What CPU a guest was given. It goes with the guest for all its life; another host takes the guest only if
/// [`check_runs_here`](Self::check_runs_here) says so there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuModel {
    /// The leaves, those that differ between vCPUs as for vCPU 0.
    pub leaves: Vec<CpuLeaf>,
    /// Frequency of the guest's time stamp counter in kHz.
    pub tsc_khz: u32,
}

/// This host's CPU could not be asked.
#[derive(Debug, Error)]
pub enum CpuModelError {
    /// No usable KVM.
    #[error("read what CPU this host can give a guest")]
    Kvm(#[from] KvmError),
    /// A call failed.
    #[error("read what CPU this host can give a guest")]
    Call(#[from] CallError),
}

impl CpuModel {
    /// All that this host's KVM supports, minus what cannot move with a guest.
    pub fn host() -> Result<CpuModel, CpuModelError> {
        // Neither answer changes while a host is up, and the frequency costs a VM with a vCPU (some 20 ms) to ask.
        static HOST: OnceLock<CpuModel> = OnceLock::new();
        if let Some(model) = HOST.get() {
            return Ok(model.clone());
        }
        let kvm = kvm::open()?;
        let mut leaves = supported_leaves(&kvm)?;
        for leaf in &mut leaves {
            features::keep_what_can_move(leaf);
            if leaf.function == 1 && kvm.check_extension(Cap::TscDeadlineTimer) {
                // KVM_GET_SUPPORTED_CPUID leaves it out: it depends on the in-kernel interrupt chip, which is there.
                leaf.ecx |= features::TSC_DEADLINE;
            }
        }
        let model = CpuModel { leaves, tsc_khz: host_tsc_khz(&kvm)? };
        Ok(HOST.get_or_init(|| model).clone())
    }

    /// Whether a guest with this CPU can go on here; if not, names what is missing.
    pub fn check_runs_here(&self) -> Result<(), CpuMismatch> {
        if self.leaves.len() > MAX_LEAVES {
            return Err(CpuMismatch::TooManyLeaves { leaves: self.leaves.len(), limit: MAX_LEAVES });
        }
        let host = CpuModel::host().map_err(CpuMismatch::Host)?;
        check::runs_on(self, &host, host_can_scale_tsc()?)
    }

    /// The leaf with this function and subleaf.
    pub fn leaf(&self, function: u32, index: u32) -> Option<&CpuLeaf> {
        self.leaves.iter().find(|leaf| leaf.function == function && leaf.index == index)
    }

    /// The vendor's twelve letters, `GenuineIntel` or `AuthenticAMD` for most.
    pub fn vendor(&self) -> String {
        let Some(leaf) = self.leaf(0, 0) else {
            return String::new();
        };
        let bytes = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl From<&kvm_cpuid_entry2> for CpuLeaf {
    fn from(entry: &kvm_cpuid_entry2) -> Self {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *entry;
        CpuLeaf { function, index, flags, eax, ebx, ecx, edx }
    }
}

impl From<&CpuLeaf> for kvm_cpuid_entry2 {
    fn from(leaf: &CpuLeaf) -> Self {
        let CpuLeaf { function, index, flags, eax, ebx, ecx, edx } = *leaf;
        kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }
    }
}

fn supported_leaves(kvm: &Kvm) -> Result<Vec<CpuLeaf>, CallError> {
    let cpuid: CpuId =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(CallError::of("KVM_GET_SUPPORTED_CPUID"))?;
    Ok(cpuid.as_slice().iter().map(CpuLeaf::from).collect())
}

/// Only a vCPU knows the frequency.
fn host_tsc_khz(kvm: &Kvm) -> Result<u32, CallError> {
    let vm = kvm.create_vm().map_err(CallError::of("KVM_CREATE_VM"))?;
    let vcpu = vm.create_vcpu(0).map_err(CallError::of("KVM_CREATE_VCPU"))?;
    vcpu.get_tsc_khz().map_err(CallError::of("KVM_GET_TSC_KHZ"))
}

/// Whether a guest here may have a TSC of another frequency than the host's.
fn host_can_scale_tsc() -> Result<bool, CpuMismatch> {
    let kvm = kvm::open().map_err(|error| CpuMismatch::Host(error.into()))?;
    Ok(kvm.check_extension(Cap::TscControl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_read_in_the_order_of_the_registers() {
        let leaf = CpuLeaf {
            ebx: u32::from_le_bytes(*b"Auth"),
            edx: u32::from_le_bytes(*b"enti"),
            ecx: u32::from_le_bytes(*b"cAMD"),
            ..CpuLeaf::default()
        };
        assert_eq!(CpuModel { leaves: vec![leaf], tsc_khz: 1 }.vendor(), "AuthenticAMD");
    }
}
