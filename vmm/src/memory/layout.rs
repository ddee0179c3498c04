//! Where guest memory lies in the guest's physical address space.
//!
//! ```text
//! guest-physical   0 ........ 3 GiB        4 GiB ........
//!                  └── low ──┘ └─ devices ┘ └── high ──┘
//! offset           0 ........ 3 GiB ........ size          one host mapping, no hole
//! page index       offset / 4096, dense
//! ```

use std::ops::Range;

/// Bytes of a page. Everything here counts in pages of this size, whatever backs them.
pub const PAGE_BYTES: u64 = 4096;
/// Low memory ends here at the latest: the last GiB below 4 GiB belongs to interrupt chips and devices.
pub const LOW_MEMORY_END: u64 = 3 << 30;
/// High memory starts here.
pub const HIGH_MEMORY_START: u64 = 4 << 30;

/// One stretch of guest memory: contiguous in the guest and in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Guest-physical address of its first byte.
    pub guest_address: u64,
    /// Offset of its first byte in the host mapping.
    pub offset: u64,
    /// Length in bytes, a multiple of [`PAGE_BYTES`].
    pub bytes: u64,
}

impl Stretch {
    /// Its dense page indices.
    pub fn pages(&self) -> Range<u64> {
        self.offset / PAGE_BYTES..(self.offset + self.bytes) / PAGE_BYTES
    }
}

/// The stretches of a guest with `memory_bytes` of memory, in the order of their offsets.
pub fn stretches(memory_bytes: u64) -> impl Iterator<Item = Stretch> {
    let low = memory_bytes.min(LOW_MEMORY_END);
    let high = memory_bytes - low;
    [
        Stretch { guest_address: 0, offset: 0, bytes: low },
        Stretch { guest_address: HIGH_MEMORY_START, offset: low, bytes: high },
    ]
    .into_iter()
    .filter(|stretch| stretch.bytes > 0)
}

/// The offset of a guest-physical address, or `None` where there is no memory.
pub fn offset_of(memory_bytes: u64, guest_address: u64) -> Option<u64> {
    stretches(memory_bytes).find_map(|stretch| {
        let inside = guest_address.checked_sub(stretch.guest_address)?;
        (inside < stretch.bytes).then_some(stretch.offset + inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_has_no_offset_and_the_index_no_hole() {
        let size = LOW_MEMORY_END + 2 * PAGE_BYTES;
        assert_eq!(offset_of(size, LOW_MEMORY_END - 1), Some(LOW_MEMORY_END - 1));
        assert_eq!(offset_of(size, LOW_MEMORY_END), None);
        assert_eq!(offset_of(size, HIGH_MEMORY_START - 1), None);
        assert_eq!(offset_of(size, HIGH_MEMORY_START), Some(LOW_MEMORY_END));
        assert_eq!(offset_of(size, HIGH_MEMORY_START + 2 * PAGE_BYTES), None);
        assert_eq!(offset_of(size, u64::MAX), None);
    }

    #[test]
    fn small_memory_is_one_stretch() {
        assert_eq!(stretches(16 << 20).count(), 1);
        assert_eq!(stretches(LOW_MEMORY_END).count(), 1);
        assert_eq!(stretches(LOW_MEMORY_END + PAGE_BYTES).count(), 2);
    }

    #[test]
    fn a_slot_border_is_a_border_of_bitmap_words() {
        // The dirty log of a slot is copied word by word into the dense bitmap.
        assert!((LOW_MEMORY_END / PAGE_BYTES).is_multiple_of(64));
    }
}
