//! Segment registers and the descriptors behind them (Intel SDM volume 3A, 3.4.5).

use kvm_bindings::{kvm_segment, kvm_sregs};

use super::GDT;

/// Flat 32-bit code.
pub(super) const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// 64-bit code.
pub(super) const CODE_64: u64 = 0x00af_9b00_0000_ffff;
/// Flat data.
pub(super) const DATA: u64 = 0x00cf_9300_0000_ffff;
/// A TSS with nothing in it.
pub(super) const TSS: u64 = 0x0000_8b00_0000_0067;

/// A segment register that holds GDT entry `index`, whose descriptor is `entry`.
pub(super) fn segment(entry: u64, index: u16) -> kvm_segment {
    let granular = entry >> 55 & 1 == 1;
    let limit = (entry & 0xffff | entry >> 32 & 0xf_0000) as u32;
    kvm_segment {
        base: entry >> 16 & 0xff_ffff | entry >> 32 & 0xff00_0000,
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector: index * 8,
        type_: (entry >> 40 & 0xf) as u8,
        s: (entry >> 44 & 1) as u8,
        dpl: (entry >> 45 & 3) as u8,
        present: (entry >> 47 & 1) as u8,
        avl: (entry >> 52 & 1) as u8,
        l: (entry >> 53 & 1) as u8,
        db: (entry >> 54 & 1) as u8,
        g: u8::from(granular),
        ..kvm_segment::default()
    }
}

/// Loads code, data and TSS from the entries of `gdt` with these numbers, and GDTR; no IDT.
pub(super) fn set(sregs: &mut kvm_sregs, gdt: &[u64], code: u16, data: u16, tss: u16) {
    let of = |index: u16| segment(gdt[usize::from(index)], index);
    sregs.cs = of(code);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (of(data), of(data), of(data), of(data), of(data));
    sregs.tr = of(tss);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, (size_of_val(gdt) - 1) as u16);
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat() {
        let code = segment(CODE_32, 1);
        assert_eq!((code.base, code.limit, code.type_, code.db, code.l, code.s), (0, u32::MAX, 0xb, 1, 0, 1));
        let code = segment(CODE_64, 2);
        assert_eq!((code.selector, code.db, code.l, code.s, code.dpl), (0x10, 0, 1, 1, 0));
        let tss = segment(TSS, 3);
        assert_eq!((tss.base, tss.limit, tss.type_, tss.s), (0, 0x67, 0xb, 0));
    }
}
