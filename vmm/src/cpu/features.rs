//! Which features a guest may have.

use super::model::CpuLeaf;

/// Leaf 1 ECX: the local APIC timer's TSC deadline mode.
pub(super) const TSC_DEADLINE: u32 = 1 << 24;

/// Takes away what cannot move with a guest or has no sense in one, and says so to the guest.
pub(super) fn keep_what_can_move(leaf: &mut CpuLeaf) {
    match (leaf.function, leaf.index) {
        (1, 0) => {
            // The guest is one: it may look for KVM's own leaves.
            leaf.ecx |= bit(31);
            // monitor, dtes64, ds_cpl, vmx, smx, pdcm: nested machines and counters are not part of the saved state.
            leaf.ecx &= !(bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(15));
            // osxsave follows the guest's CR4; KVM sets it.
            leaf.ecx &= !bit(27);
        }
        // sgx, intel_pt, hle, rtm: enclaves and traces cannot be read out; transactions abort at every pause.
        (7, 0) => {
            leaf.ebx &= !(bit(2) | bit(4) | bit(11) | bit(25));
            // ospke follows CR4. waitpkg, shstk, keylocker, bus_lock_detect, enqcmd, sgx_lc, pks: supervisor state
            // outside of XSAVE2.
            leaf.ecx &= !(bit(4) | bit(5) | bit(7) | bit(23) | bit(24) | bit(29) | bit(30) | bit(31));
            // uintr, arch_lbr, ibt as above; amx_bf16, amx_tile, amx_int8: 8 KiB of state that needs a permission of
            // its own on each host.
            leaf.edx &= !(bit(5) | bit(19) | bit(20) | bit(22) | bit(24) | bit(25));
        }
        // fred, amx_fp16; amx_complex.
        (7, 1) => {
            leaf.eax &= !(bit(17) | bit(21));
            leaf.edx &= !bit(8);
        }
        // Performance counters, Processor Trace, SGX, architectural LBRs, AMX tiles: all off.
        (0xa | 0x12 | 0x14 | 0x1c | 0x1d | 0x1e, _) | (0x8000_0022, _) => clear(leaf),
        (0xd, 0) => {
            // Only user state that the features above leave: x87 to AVX-512, and PKRU.
            leaf.eax &= 0x2e7;
            leaf.edx = 0;
        }
        (0xd, 1) => {
            // No XFD, no supervisor states.
            leaf.eax &= !bit(4);
            leaf.ecx = 0;
            leaf.edx = 0;
        }
        (0xd, component) if component >= 2 && (component > 9 || 0x2e7 >> component & 1 == 0) => {
            clear(leaf);
        }
        // svm, ibs, skinit, lwp, perfctr_core, perfctr_nb, bpext, ptsc, perfctr_llc, mwaitx.
        (0x8000_0001, _) => {
            leaf.ecx &= !(bit(2)
                | bit(10)
                | bit(12)
                | bit(15)
                | bit(23)
                | bit(24)
                | bit(26)
                | bit(27)
                | bit(28)
                | bit(29));
        }
        // SVM's own leaf, IBS's, and memory encryption.
        (0x8000_000a | 0x8000_001b | 0x8000_001f, _) => clear(leaf),
        // Of KVM's services those whose state is all in MSRs. Asynchronous page faults are not: one may be on its way.
        // pv_eoi writes guest memory while the interrupt chip is read.
        (0x4000_0001, _) => {
            leaf.eax &=
                bit(0) | bit(1) | bit(3) | bit(5) | bit(7) | bit(9) | bit(11) | bit(12) | bit(13) | bit(24);
        }
        _ => {}
    }
}

fn clear(leaf: &mut CpuLeaf) {
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
}

const fn bit(number: u32) -> u32 {
    1 << number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_move_is_taken_away() {
        let mut leaf = CpuLeaf { function: 0xd, index: 0, eax: u32::MAX, edx: 7, ..CpuLeaf::default() };
        keep_what_can_move(&mut leaf);
        assert_eq!((leaf.eax, leaf.edx), (0x2e7, 0));
        let mut leaf = CpuLeaf { function: 1, ecx: u32::MAX, ..CpuLeaf::default() };
        keep_what_can_move(&mut leaf);
        assert_eq!(leaf.ecx & 1 << 5, 0, "no nested machines");
    }
}
