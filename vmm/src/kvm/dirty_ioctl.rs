//! The dirty-log calls kvm-ioctls does not have: GET into a kept buffer, and CLEAR.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
use kvm_ioctls::VmFd;

// include/uapi/linux/kvm.h: KVM_GET_DIRTY_LOG = _IOW(KVMIO, 0x42, struct kvm_dirty_log)
const KVM_GET_DIRTY_LOG: u32 = 1 << 30 | (size_of::<kvm_dirty_log>() as u32) << 16 | KVMIO << 8 | 0x42;
const _: () = assert!(KVM_GET_DIRTY_LOG == 0x4010_ae42);
// include/uapi/linux/kvm.h: KVM_CLEAR_DIRTY_LOG = _IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)
const KVM_CLEAR_DIRTY_LOG: u32 =
    3 << 30 | (size_of::<kvm_clear_dirty_log>() as u32) << 16 | KVMIO << 8 | 0xc0;
const _: () = assert!(KVM_CLEAR_DIRTY_LOG == 0xc018_aec0);

/// Reads the dirty log of `slot`, which has `pages` pages, into `into`. Without manual protection this also clears it.
pub(crate) fn get(vm: &VmFd, slot: u32, pages: u64, into: &mut [u64]) -> io::Result<()> {
    // The kernel writes whole words of 64 bits, and nothing beyond the slot's last one.
    assert!(into.len() as u64 >= pages.div_ceil(64), "buffer of {} words for {pages} pages", into.len());
    let mut log = kvm_dirty_log { slot, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = into.as_mut_ptr().cast();
    // SAFETY: `log` and the buffer it points to live across the call; the buffer is long enough, checked above.
    check(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_GET_DIRTY_LOG.into(), &log) })
}

/// Clears the pages of `slot` whose bits are set, from `first_page` (a multiple of 64) for `pages` pages (a multiple of
/// 64, unless they reach the slot's end), and has their next write logged again.
pub(crate) fn clear(vm: &VmFd, slot: u32, first_page: u64, pages: u64, bits: &[u64]) -> io::Result<()> {
    assert!(first_page.is_multiple_of(64), "first page {first_page} is no border of words");
    assert!(bits.len() as u64 >= pages.div_ceil(64), "buffer of {} words for {pages} pages", bits.len());
    let num_pages = u32::try_from(pages).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut log = kvm_clear_dirty_log { slot, num_pages, first_page, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bits.as_ptr().cast_mut().cast();
    // SAFETY: as in `get`; the kernel only reads the buffer.
    check(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG.into(), &log) })
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
