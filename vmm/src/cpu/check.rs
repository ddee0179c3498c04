//! Whether a host can go on being a guest's CPU.

use thiserror::Error;

use super::feature_words::{FEATURE_WORDS, FeatureWord};
use super::model::{CpuModel, CpuModelError};

/// How far two TSC frequencies may lie apart and still count as one, in parts per million: KVM's own default
/// (`tsc_tolerance_ppm` in arch/x86/kvm/x86.c). Two hosts of one type differ by a few.
const TSC_TOLERANCE_PPM: u64 = 250;

/// The guest cannot go on here, and why.
#[derive(Debug, Error)]
pub enum CpuMismatch {
    /// This host could not be asked.
    #[error("compare the guest's CPU with this host's")]
    Host(#[source] CpuModelError),
    /// A model no host makes.
    #[error("the guest's CPU has {leaves} CPUID leaves, more than the limit of {limit}")]
    TooManyLeaves {
        /// Leaves in the model.
        leaves: usize,
        /// The limit.
        limit: usize,
    },
    /// Another vendor.
    #[error("the guest was given a CPU by {guest}, and this host's is by {host}")]
    Vendor {
        /// The guest's.
        guest: String,
        /// This host's.
        host: String,
    },
    /// Features this host lacks.
    #[error("this host's CPU or KVM lacks what the guest was given: {}", features.join(", "))]
    Features {
        /// Each by name and place, as `avx512f (leaf 7 EBX bit 16)`.
        features: Vec<String>,
    },
    /// Fewer physical address bits.
    #[error("the guest was given {guest} physical address bits, and this host has {host}")]
    AddressBits {
        /// The guest's.
        guest: u32,
        /// This host's.
        host: u32,
    },
    /// Another frequency, and no way to make up for it.
    #[error(
        "the guest's time stamp counter runs at {guest_khz} kHz and this host's at {host_khz} kHz, and this host \
         cannot scale it: the guest's clocks would run wrong"
    )]
    TscFrequency {
        /// The guest's.
        guest_khz: u32,
        /// This host's.
        host_khz: u32,
    },
}

/// Whether `guest` can go on where `host` is all there is.
pub(super) fn runs_on(guest: &CpuModel, host: &CpuModel, host_scales_tsc: bool) -> Result<(), CpuMismatch> {
    if guest.vendor() != host.vendor() {
        return Err(CpuMismatch::Vendor { guest: guest.vendor(), host: host.vendor() });
    }
    let features: Vec<String> = FEATURE_WORDS.iter().flat_map(|word| lacking(word, guest, host)).collect();
    if !features.is_empty() {
        return Err(CpuMismatch::Features { features });
    }
    let (guest_bits, host_bits) = (address_bits(guest), address_bits(host));
    if guest_bits > host_bits {
        return Err(CpuMismatch::AddressBits { guest: guest_bits, host: host_bits });
    }
    if !host_scales_tsc && !same_frequency(guest.tsc_khz, host.tsc_khz) {
        return Err(CpuMismatch::TscFrequency { guest_khz: guest.tsc_khz, host_khz: host.tsc_khz });
    }
    Ok(())
}

/// Whether two TSC frequencies (kHz) are one but for measuring error.
pub(crate) fn same_frequency(one_khz: u32, other_khz: u32) -> bool {
    u64::from(one_khz.abs_diff(other_khz)) * 1_000_000 <= u64::from(one_khz) * TSC_TOLERANCE_PPM
}

fn lacking(word: &FeatureWord, guest: &CpuModel, host: &CpuModel) -> Vec<String> {
    let of =
        |model: &CpuModel| model.leaf(word.function, word.index).map_or(0, |leaf| word.register.of(leaf));
    let missing = of(guest) & !of(host);
    (0..32)
        .filter(|bit| missing >> bit & 1 == 1)
        .map(|bit| {
            let name = word.name(bit).unwrap_or("an unnamed feature");
            let subleaf = if word.index == 0 { String::new() } else { format!(".{}", word.index) };
            let register = word.register.name();
            if word.function < 0x100 {
                format!("{name} (leaf {}{subleaf} {register} bit {bit})", word.function)
            } else {
                format!("{name} (leaf {:#x}{subleaf} {register} bit {bit})", word.function)
            }
        })
        .collect()
}

/// Bits of a physical address: leaf 0x8000_0008, EAX 7:0.
fn address_bits(model: &CpuModel) -> u32 {
    model.leaf(0x8000_0008, 0).map_or(36, |leaf| leaf.eax & 0xff)
}

#[cfg(test)]
mod tests {
    use super::super::model::CpuLeaf;
    use super::*;

    fn model(vendor: &[u8; 12], ebx7: u32, bits: u32, tsc_khz: u32) -> CpuModel {
        let part = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().expect("4 of 12 bytes"));
        let leaves = vec![
            CpuLeaf { ebx: part(0), edx: part(4), ecx: part(8), ..CpuLeaf::default() },
            CpuLeaf { function: 7, ebx: ebx7, ..CpuLeaf::default() },
            CpuLeaf { function: 0x8000_0008, eax: bits, ..CpuLeaf::default() },
        ];
        CpuModel { leaves, tsc_khz }
    }

    #[test]
    fn less_runs_on_more() {
        let guest = model(b"GenuineIntel", 0, 40, 2_000_000);
        let host = model(b"GenuineIntel", 1 << 16, 46, 2_000_100);
        assert!(runs_on(&guest, &host, false).is_ok());
    }

    #[test]
    fn a_missing_feature_is_named() {
        let guest = model(b"GenuineIntel", 1 << 16 | 1 << 5, 40, 2_000_000);
        let host = model(b"GenuineIntel", 1 << 5, 40, 2_000_000);
        let error = runs_on(&guest, &host, false).expect_err("avx512f is missing");
        assert!(error.to_string().ends_with(": avx512f (leaf 7 EBX bit 16)"), "{error}");
    }

    #[test]
    fn another_vendor_address_width_or_frequency_is_refused() {
        let guest = model(b"GenuineIntel", 0, 46, 2_000_000);
        let refused = |host: CpuModel| runs_on(&guest, &host, false).expect_err("refused");
        assert!(matches!(refused(model(b"AuthenticAMD", 0, 46, 2_000_000)), CpuMismatch::Vendor { .. }));
        assert!(matches!(refused(model(b"GenuineIntel", 0, 39, 2_000_000)), CpuMismatch::AddressBits { .. }));
        assert!(matches!(
            refused(model(b"GenuineIntel", 0, 46, 2_600_000)),
            CpuMismatch::TscFrequency { .. }
        ));
        assert!(
            runs_on(&guest, &model(b"GenuineIntel", 0, 46, 2_600_000), true).is_ok(),
            "a host that scales"
        );
    }
}
