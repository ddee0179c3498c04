//! What this host can do, for a doctor to tell.

use std::arch::x86_64::__cpuid_count;
use std::fs;
use std::path::Path;

use kvm_bindings::{
    CpuId, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::Cap;

use crate::kvm::{self, KvmError};
use crate::missing::{MissingPages, MissingPagesError};
use crate::room::Room;

/// CPUID 7.0 EBX: avx512f.
const AVX512_FOUNDATION: u32 = 1 << 16;
/// CPUID 7.0 EDX: amx_tile.
const AMX_TILE: u32 = 1 << 24;

/// What this host has of what a machine needs or profits from. [`probe`] finds out.
#[derive(Debug)]
pub struct Host {
    /// Machines can be made at all.
    pub kvm: Result<KvmFacts, KvmError>,
    /// Missing pages can be served: what post-copy stands on.
    pub missing_pages: Result<(), MissingPagesError>,
    /// Transparent huge pages for memory that asks for them.
    pub transparent_huge_pages: TransparentHugePages,
    /// Reserved 2 MiB pages that are free.
    pub free_huge_pages: u64,
    /// Memory a new guest could have, if that is known.
    pub room: Option<Room>,
}

/// What KVM can do here beyond the necessary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmFacts {
    /// Its API version.
    pub api_version: i32,
    /// Most vCPUs a guest may have.
    pub max_vcpus: usize,
    /// The dirty log is cleared apart from reading it (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
    pub dirty_log_manual_protect: bool,
    /// The dirty log starts with all bits set: starting it costs next to nothing.
    pub dirty_log_initially_set: bool,
    /// A guest's TSC may run at another frequency than the host's (KVM_CAP_TSC_CONTROL).
    pub tsc_scaling: bool,
    /// The guest's clock can be moved on over a gap by KVM itself (KVM_CLOCK_REALTIME).
    pub clock_knows_wall_time: bool,
    /// Bytes of a vCPU's extended registers (KVM_CAP_XSAVE2, or the plain area where KVM does not have it). A vCPU moves only
    /// to a host that has as many, or to one that has all that it uses.
    pub xsave_bytes: usize,
    /// Guests have AVX-512 here.
    pub has_avx512: bool,
    /// The processor has AMX. Guests do not get it: its state needs a permission of its own on each host.
    pub has_amx: bool,
}

/// `/sys/kernel/mm/transparent_hugepage/enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransparentHugePages {
    /// For all memory.
    Always,
    /// For memory that asks: guests' does.
    OnRequest,
    /// Never: filling and copying guest memory is slower.
    Never,
    /// This kernel does not know them.
    Absent,
}

/// Asks the host. Changes nothing.
pub fn probe() -> Host {
    Host {
        kvm: probe_kvm(),
        missing_pages: MissingPages::probe(),
        transparent_huge_pages: transparent_huge_pages(Path::new(
            "/sys/kernel/mm/transparent_hugepage/enabled",
        )),
        free_huge_pages: number_in("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or(0),
        room: Room::now(),
    }
}

fn probe_kvm() -> Result<KvmFacts, KvmError> {
    let kvm = kvm::open()?;
    let dirty_log = kvm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) as u32;
    let clock = kvm.check_extension_int(Cap::AdjustClock) as u32;
    let leaf_7 = |cpuid: CpuId| {
        cpuid.as_slice().iter().find(|leaf| (leaf.function, leaf.index) == (7, 0)).map(|leaf| leaf.ebx)
    };
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok().and_then(leaf_7);
    Ok(KvmFacts {
        api_version: kvm.get_api_version(),
        max_vcpus: kvm.get_max_vcpus(),
        dirty_log_manual_protect: dirty_log & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0,
        dirty_log_initially_set: dirty_log & KVM_DIRTY_LOG_INITIALLY_SET != 0,
        tsc_scaling: kvm.check_extension(Cap::TscControl),
        clock_knows_wall_time: clock & kvm_bindings::KVM_CLOCK_REALTIME != 0,
        xsave_bytes: crate::vcpu::xsave_bytes(kvm.check_extension_int(Cap::Xsave2)),
        has_avx512: supported.is_some_and(|ebx| ebx & AVX512_FOUNDATION != 0),
        has_amx: __cpuid_count(7, 0).edx & AMX_TILE != 0,
    })
}

fn transparent_huge_pages(file: &Path) -> TransparentHugePages {
    match fs::read_to_string(file) {
        Ok(modes) if modes.contains("[always]") => TransparentHugePages::Always,
        Ok(modes) if modes.contains("[madvise]") => TransparentHugePages::OnRequest,
        Ok(_) => TransparentHugePages::Never,
        Err(_) => TransparentHugePages::Absent,
    }
}

fn number_in(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
