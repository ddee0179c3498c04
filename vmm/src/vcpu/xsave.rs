//! The extended registers, from x87 to whatever XSAVE has on this host.

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use crate::kvm::CallError;

/// A buffer for one vCPU's extended registers.
#[derive(Debug)]
pub(super) struct ExtendedRegisters {
    area: Xsave,
    /// Bytes of it, the header of 4096 included.
    bytes: usize,
    is_version_2: bool,
}

impl ExtendedRegisters {
    /// As large as this host's KVM asks for.
    pub(super) fn of(vm: &VmFd) -> ExtendedRegisters {
        let asked = vm.check_extension_int(Cap::Xsave2);
        let bytes = xsave_bytes(asked);
        let extra = (bytes - size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        let area = Xsave::new(extra).expect("an area of some KiB");
        ExtendedRegisters { area, bytes, is_version_2: asked > 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing in `state` that this host does not have.
    pub(super) fn takes(&self, state: &[u8]) -> bool {
        state.get(self.bytes..).unwrap_or_default().iter().all(|byte| *byte == 0)
    }

    /// Reads them into `into`, whose contents are dropped.
    pub(super) fn read(&mut self, vcpu: &VcpuFd, into: &mut Vec<u8>) -> Result<(), CallError> {
        into.clear();
        if self.is_version_2 {
            // SAFETY: the buffer has the size that KVM_CAP_XSAVE2 asks for, and no state component was enabled for
            // this process (arch_prctl) since.
            unsafe { vcpu.get_xsave2(&mut self.area) }.map_err(CallError::of("KVM_GET_XSAVE2"))?;
            extend_with_words(into, &self.area.as_fam_struct_ref().xsave.region);
            extend_with_words(into, self.area.as_slice());
        } else {
            let xsave = vcpu.get_xsave().map_err(CallError::of("KVM_GET_XSAVE"))?;
            extend_with_words(into, &xsave.region);
        }
        Ok(())
    }

    /// Writes them; what `bytes` are short of is zero.
    pub(super) fn write(&mut self, vcpu: &VcpuFd, bytes: &[u8]) -> Result<(), CallError> {
        let mut words = bytes
            .chunks(size_of::<u32>())
            .map(|chunk| {
                let mut word = [0; size_of::<u32>()];
                word[..chunk.len()].copy_from_slice(chunk);
                u32::from_ne_bytes(word)
            })
            .chain(std::iter::repeat(0));
        // SAFETY: only the register area is written, never the length.
        let region = unsafe { &mut self.area.as_mut_fam_struct().xsave.region };
        region.iter_mut().for_each(|to| *to = words.next().unwrap_or(0));
        self.area.as_mut_slice().iter_mut().for_each(|to| *to = words.next().unwrap_or(0));
        // SAFETY: the buffer has the size that this host's KVM reads (see `read`); without KVM_CAP_XSAVE2 that is the
        // plain 4096 bytes.
        unsafe { vcpu.set_xsave2(&self.area) }.map_err(CallError::of("KVM_SET_XSAVE"))
    }
}

/// Bytes of extended registers where KVM_CAP_XSAVE2 says `asked`.
pub(crate) fn xsave_bytes(asked: i32) -> usize {
    usize::try_from(asked).unwrap_or(0).max(size_of::<kvm_xsave>())
}

fn extend_with_words(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
}
