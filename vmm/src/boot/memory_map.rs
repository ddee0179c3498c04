//! What a kernel is told of memory.

use super::{ONE_MIB, ROM_HOLE_START};
use crate::memory::{HIGH_MEMORY_START, LOW_MEMORY_END};

/// Numbers that BIOS (e820) and PVH (`hvm_memmap_table_entry`) share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// A stretch of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// The memory map of a guest with `memory_bytes`. The hole below 1 MiB is reserved: the ACPI tables lie in it.
pub(super) fn entries(memory_bytes: u64) -> impl Iterator<Item = Entry> {
    let low = memory_bytes.min(LOW_MEMORY_END);
    [
        (0, ROM_HOLE_START, Kind::Ram),
        (ROM_HOLE_START, ONE_MIB - ROM_HOLE_START, Kind::Reserved),
        (ONE_MIB, low - ONE_MIB, Kind::Ram),
        (HIGH_MEMORY_START, memory_bytes - low, Kind::Ram),
    ]
    .into_iter()
    .filter(|(_, bytes, _)| *bytes > 0)
    .map(|(start, bytes, kind)| Entry { start, bytes, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_all_memory_and_no_devices() {
        let ram = |memory_bytes| {
            entries(memory_bytes)
                .filter(|entry| entry.kind == Kind::Ram)
                .map(|entry| entry.bytes)
                .sum::<u64>()
        };
        let hole = ONE_MIB - ROM_HOLE_START;
        for memory_bytes in [16 << 20, LOW_MEMORY_END, LOW_MEMORY_END + 4096, 8 << 30] {
            assert_eq!(ram(memory_bytes), memory_bytes - hole);
            let mut end = 0;
            for entry in entries(memory_bytes) {
                assert!(entry.start >= end, "in order and apart");
                end = entry.start + entry.bytes;
                let devices = LOW_MEMORY_END..HIGH_MEMORY_START;
                assert!(!devices.contains(&entry.start) && !devices.contains(&(end - 1)));
            }
        }
    }
}
