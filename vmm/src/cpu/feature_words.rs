//! Feature bits by name.

use super::model::CpuLeaf;

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
    word(0x8000_0007, 0, Register::Edx, "- - - - - - - - constant_tsc"),
    word(
        0x8000_0021,
        0,
        Register::Eax,
        "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - autoibrs no_smm_ctl_msr - - - - - - - - - - - - - - - \
         - - sbpb ibpb_brtype srso_no",
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
        assert_eq!(name(0x8000_0007, 0, Register::Edx, 8), Some("constant_tsc"));
        assert_eq!(name(0x8000_0021, 0, Register::Eax, 6), Some("null_sel_clr_base"));
        assert_eq!(name(0x8000_0021, 0, Register::Eax, 27), Some("sbpb"));
        assert_eq!(name(0x4000_0001, 0, Register::Eax, 24), Some("kvm_clocksource_stable"));
    }
}
