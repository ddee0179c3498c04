//! The host's KVM: opening it, and what this machine cannot do without.

pub(crate) mod dirty_ioctl;
pub(crate) mod tsc_offset;

use std::io;

use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// The one KVM API version there is (Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION).
pub const KVM_API_VERSION: i32 = 12;

/// What a machine here needs of KVM, by the names of `include/uapi/linux/kvm.h`.
pub const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// `/dev/kvm` cannot be used. Says what to do about it.
#[derive(Debug, Error)]
pub enum KvmError {
    /// No such file: no KVM in this kernel, or none handed to this container.
    #[error(
        "/dev/kvm does not exist: load the kvm-intel or kvm-amd module, or turn on virtualisation in the firmware"
    )]
    Absent,
    /// Not permitted.
    #[error(
        "/dev/kvm may not be opened by this user: join the group that owns it (usually `kvm`), or run as root"
    )]
    NotPermitted,
    /// Any other failure.
    #[error("open /dev/kvm")]
    Open(#[source] io::Error),
    /// An API from before 2007, or from a future nobody has planned.
    #[error("/dev/kvm speaks API version {version}, not {KVM_API_VERSION}")]
    ApiVersion {
        /// What it says.
        version: i32,
    },
    /// Capabilities missing.
    #[error("this host's KVM lacks {}", missing.join(", "))]
    LacksCapabilities {
        /// Their names in `linux/kvm.h`.
        missing: Vec<&'static str>,
    },
}

/// Opens `/dev/kvm` and checks it.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Absent,
        libc::EACCES | libc::EPERM => KvmError::NotPermitted,
        errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        return Err(KvmError::ApiVersion { version });
    }
    let missing = lacking(&kvm);
    if missing.is_empty() { Ok(kvm) } else { Err(KvmError::LacksCapabilities { missing }) }
}

/// The names of needed capabilities that this KVM lacks.
pub(crate) fn lacking(kvm: &Kvm) -> Vec<&'static str> {
    NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect()
}

/// One KVM call that failed, with its name. The vCPU or slot it was made on is named by the error around it.
#[derive(Debug, Error)]
#[error("{call}")]
pub struct CallError {
    /// The call, as `linux/kvm.h` names it.
    pub call: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

impl CallError {
    /// For `map_err`: names the call.
    pub(crate) fn of(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> CallError {
        move |error| CallError { call, source: error.into() }
    }
}
