//! Feature bits by name, and which of them a guest may have.

use super::model::CpuLeaf;

/// Leaf 1 ECX: the local APIC timer's TSC deadline mode.
pub(super) const TSC_DEADLINE: u32 = 1 << 24;

/// An answer register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    pub(super) fn of(self, leaf: &CpuLeaf) -> u32 {
        match self {
            Register::Eax => leaf.eax,
            Register::Ebx => leaf.ebx,
            Register::Ecx => leaf.ecx,
            Register::Edx => leaf.edx,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Register::Eax => "EAX",
            Register::Ebx => "EBX",
            Register::Ecx => "ECX",
            Register::Edx => "EDX",
        }
    }
}

/// A register whose bits each stand for a feature. `names` has one word a bit from bit 0 on, `-` where none is known.
pub(super) struct FeatureWord {
    pub(super) function: u32,
    pub(super) index: u32,
    pub(super) register: Register,
    names: &'static str,
}

impl FeatureWord {
    /// The name of a bit, if it has one.
    pub(super) fn name(&self, bit: u32) -> Option<&'static str> {
        self.names.split_ascii_whitespace().nth(bit as usize).filter(|name| *name != "-")
    }
}

const fn word(function: u32, index: u32, register: Register, names: &'static str) -> FeatureWord {
    FeatureWord { function, index, register, names }
}

/// All words compared between hosts. Names as in Linux's arch/x86/include/asm/cpufeatures.h.
pub(super) const FEATURE_WORDS: &[FeatureWord] = &[
    word(
        1,
        0,
        Register::Ecx,
        "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor",
    ),
    word(
        1,
        0,
        Register::Edx,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - ds acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    word(
        7,
        0,
        Register::Ebx,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a \
         avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni \
         avx512bw avx512vl",
    ),
    word(
        7,
        0,
        Register::Ecx,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni \
         avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid keylocker bus_lock_detect cldemote - movdiri \
         movdir64b enqcmd sgx_lc pks",
    ),
    word(
        7,
        0,
        Register::Edx,
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort - \
         tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile \
         amx_int8 spec_ctrl stibp flush_l1d arch_capabilities core_capabilities ssbd",
    ),
    word(
        7,
        1,
        Register::Eax,
        "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - fred lkgs wrmsrns - \
         amx_fp16 hreset avx_ifma - - lam",
    ),
    word(
        7,
        1,
        Register::Edx,
        "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchiti",
    ),
    word(7, 2, Register::Edx, "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"),
    word(
        0xd,
        0,
        Register::Eax,
        "xstate_x87 xstate_sse xstate_avx xstate_bndregs xstate_bndcsr xstate_opmask xstate_zmm_hi256 \
         xstate_hi16_zmm - xstate_pkru",
    ),
    word(0xd, 1, Register::Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    word(
        0x8000_0001,
        0,
        Register::Ecx,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp \
         fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
    ),
    word(
        0x8000_0001,
        0,
        Register::Edx,
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    word(
        0x8000_0008,
        0,
        Register::Ebx,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - amd_stibp_always_on - \
         - - - - - amd_ssbd virt_ssbd amd_ssb_no - amd_psfd",
    ),
    word(
        0x4000_0001,
        0,
        Register::Eax,
        "kvm_clocksource kvm_nop_io_delay kvm_mmu_op kvm_clocksource2 kvm_async_pf kvm_steal_time kvm_pv_eoi \
         kvm_pv_unhalt - kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield \
         kvm_async_pf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control - - - - - - \
         kvm_clocksource_stable",
    ),
];

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
    fn bits_have_their_names() {
        let name = |function, index, register, bit| {
            FEATURE_WORDS
                .iter()
                .find(|word| (word.function, word.index, word.register) == (function, index, register))
                .and_then(|word| word.name(bit))
        };
        // Positions from Intel's SDM volume 2A and AMD's APM volume 3.
        assert_eq!(name(1, 0, Register::Ecx, 31), Some("hypervisor"));
        assert_eq!(name(1, 0, Register::Ecx, 24), Some("tsc_deadline_timer"));
        assert_eq!(name(1, 0, Register::Edx, 26), Some("sse2"));
        assert_eq!(name(7, 0, Register::Ebx, 16), Some("avx512f"));
        assert_eq!(name(7, 0, Register::Ebx, 31), Some("avx512vl"));
        assert_eq!(name(7, 0, Register::Ecx, 16), Some("la57"));
        assert_eq!(name(7, 0, Register::Ecx, 22), Some("rdpid"));
        assert_eq!(name(7, 0, Register::Edx, 4), Some("fsrm"));
        assert_eq!(name(7, 0, Register::Edx, 26), Some("spec_ctrl"));
        assert_eq!(name(7, 0, Register::Edx, 31), Some("ssbd"));
        assert_eq!(name(7, 1, Register::Eax, 5), Some("avx512_bf16"));
        assert_eq!(name(0x8000_0001, 0, Register::Edx, 29), Some("lm"));
        assert_eq!(name(0x8000_0001, 0, Register::Ecx, 22), Some("topoext"));
        assert_eq!(name(0x8000_0008, 0, Register::Ebx, 24), Some("amd_ssbd"));
        assert_eq!(name(0x4000_0001, 0, Register::Eax, 24), Some("kvm_clocksource_stable"));
    }

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
