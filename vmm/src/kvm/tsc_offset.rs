//! A vCPU's TSC offset (Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET), which kvm-ioctls does not have for
//! this processor: what KVM adds to the host's TSC, scaled or not, to make the guest's.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;

// include/uapi/linux/kvm.h: KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR =
// _IOW(KVMIO, 0xe1 .. 0xe3, struct kvm_device_attr)
const fn request(number: u32) -> u32 {
    1 << 30 | (size_of::<kvm_device_attr>() as u32) << 16 | KVMIO << 8 | number
}
const KVM_SET_DEVICE_ATTR: u32 = request(0xe1);
const KVM_GET_DEVICE_ATTR: u32 = request(0xe2);
const KVM_HAS_DEVICE_ATTR: u32 = request(0xe3);
const _: () = assert!(KVM_SET_DEVICE_ATTR == 0x4018_aee1);

/// Whether this host's KVM has it (Linux 5.16 on, and where the TSC has an offset at all).
pub(crate) fn is_known(vcpu: &VcpuFd) -> bool {
    call(vcpu, KVM_HAS_DEVICE_ATTR, &mut 0).is_ok()
}

/// Reads it.
pub(crate) fn get(vcpu: &VcpuFd) -> io::Result<u64> {
    let mut offset = 0;
    call(vcpu, KVM_GET_DEVICE_ATTR, &mut offset)?;
    Ok(offset)
}

/// Writes it.
pub(crate) fn set(vcpu: &VcpuFd, mut offset: u64) -> io::Result<()> {
    call(vcpu, KVM_SET_DEVICE_ATTR, &mut offset)
}

fn call(vcpu: &VcpuFd, request: u32, value: &mut u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: std::ptr::from_mut(value) as u64,
        ..Default::default()
    };
    // SAFETY: `attribute` and the 64 bits it points to live across the call; the kernel reads or writes just those.
    let answer = unsafe { libc::ioctl(vcpu.as_raw_fd(), request.into(), &attribute) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
