//! Words and sealed records at fixed offsets of one telemetry page.

use std::vec::Vec;

use core::mem::{offset_of, size_of};

use crate::gaps::{Gap, GapRecord};
use crate::layout::{ErrorRecord, NAMED_ERRORS, VcpuPart};
use crate::oracle::Mismatch;

/// The words of one page of telemetry. Offsets come from the layout, and the length was checked: indexing cannot fail.
pub(super) struct Words<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) base: usize,
}

impl Words<'_> {
    pub(super) fn at(&self, offset: usize) -> u64 {
        let (words, _) = self.bytes[self.base + offset..].as_chunks::<8>();
        u64::from_le_bytes(words[0])
    }

    pub(super) fn gaps(&self, offset: usize, count: usize) -> Vec<Gap> {
        (0..count)
            .map(|i| offset + i * size_of::<GapRecord>())
            .filter_map(|record| GapRecord::decode(core::array::from_fn(|word| self.at(record + word * 8))))
            .collect()
    }

    pub(super) fn errors(&self) -> Vec<Mismatch> {
        let records = offset_of!(VcpuPart, named_errors);
        (0..NAMED_ERRORS)
            .map(|i| records + i * size_of::<ErrorRecord>())
            .filter_map(|record| {
                let words = core::array::from_fn(|word| self.at(record + word * 8));
                ErrorRecord::decode(&words, self.at(record + offset_of!(ErrorRecord, seal)))
            })
            .collect()
    }
}
