//! The leaves that say which vCPU asks, and among how many.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

/// Level types of leaf 0xb (Intel SDM volume 2A, CPUID): a thread, a core.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Makes `entries`, those of vCPU 0, fit vCPU `index` of `count`: one package, each vCPU a core with one thread. The
/// local APIC's number is the vCPU's index, as KVM has it.
pub(crate) fn adapt(entries: &mut Vec<kvm_cpuid_entry2>, index: u8, count: u8) {
    add_core_level(entries);
    let (apic_id, count) = (u32::from(index), u32::from(count));
    // Bits of the APIC number that tell cores apart.
    let core_bits = count.next_power_of_two().trailing_zeros();
    for entry in entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | apic_id << 24 | count << 16;
                // ht: the count above is valid.
                entry.edx = if count > 1 { entry.edx | 1 << 28 } else { entry.edx & !(1 << 28) };
            }
            // Cores in the package (31:26), threads that share the cache (25:14): all share the last level only.
            4 if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & 0x3fff | (count - 1).min(63) << 26 | sharing << 14;
            }
            // The same of AMD's caches, whose levels are counted in 7:5, too; cores are counted elsewhere.
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let sharing = if entry.eax >> 5 & 7 >= 3 { count - 1 } else { 0 };
                entry.eax = entry.eax & !0x03ff_c000 | sharing << 14;
            }
            0xb | 0x1f => {
                let (shift, threads, level) = match entry.index {
                    0 => (0, 1, LEVEL_THREAD),
                    1 => (core_bits, count, LEVEL_CORE),
                    _ => (0, 0, 0),
                };
                (entry.eax, entry.ebx) = (shift, threads);
                entry.ecx = level << 8 | entry.index & 0xff;
                entry.edx = apic_id;
            }
            // Cores in the package less one (7:0), bits of the APIC number that count them (15:12).
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | core_bits << 12 | (count - 1),
            // Extended APIC number, core number with one thread a core, one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (apic_id, apic_id & 0xff, 0),
            _ => {}
        }
    }
}

/// KVM offers leaf 0xb with its first subleaf only, which says that there is no topology (`__do_cpuid_func` in
/// arch/x86/kvm/cpuid.c); a kernel would take each vCPU for a package of its own.
fn add_core_level(entries: &mut Vec<kvm_cpuid_entry2>) {
    for function in [0xb, 0x1f] {
        let at =
            |index: u32| move |entry: &kvm_cpuid_entry2| entry.function == function && entry.index == index;
        if let (Some(first), None) = (entries.iter().position(at(0)), entries.iter().position(at(1)))
            && entries.len() < KVM_MAX_CPUID_ENTRIES
        {
            let entry = kvm_cpuid_entry2 { index: 1, ..entries[first] };
            entries.insert(first + 1, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vcpu_knows_its_number() {
        let entry = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        let mut entries = vec![entry(1, 0), entry(0xb, 0), entry(0xb, 1), entry(0xb, 2)];
        adapt(&mut entries, 3, 4);
        assert_eq!(entries[0].ebx >> 24, 3);
        assert_eq!(entries[0].ebx >> 16 & 0xff, 4);
        assert_eq!((entries[1].eax, entries[1].ebx, entries[1].ecx, entries[1].edx), (0, 1, 0x100, 3));
        assert_eq!((entries[2].eax, entries[2].ebx, entries[2].ecx, entries[2].edx), (2, 4, 0x201, 3));
        assert_eq!((entries[3].eax, entries[3].ebx, entries[3].ecx, entries[3].edx), (0, 0, 2, 3));
    }

    #[test]
    fn a_level_of_cores_is_added_where_kvm_leaves_it_out() {
        let entry = |function, index| kvm_cpuid_entry2 { function, index, flags: 1, ..Default::default() };
        let mut entries = vec![entry(1, 0), entry(0xb, 0), entry(0xd, 0)];
        adapt(&mut entries, 1, 2);
        let places: Vec<_> = entries.iter().map(|entry| (entry.function, entry.index)).collect();
        assert_eq!(places, [(1, 0), (0xb, 0), (0xb, 1), (0xd, 0)]);
        assert_eq!((entries[2].eax, entries[2].ebx, entries[2].ecx, entries[2].flags), (1, 2, 0x201, 1));
    }
}
