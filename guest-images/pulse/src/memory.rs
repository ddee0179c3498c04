//! What memory there is, what of it the oracle gets, and the page tables for what lies above 4 GiB.

use core::ptr::{with_exposed_provenance as address, with_exposed_provenance_mut as address_mut};

use telemetry::oracle::{Memory, PageRange};
use telemetry::{PAGE_SIZE, TELEMETRY_ADDRESS, TELEMETRY_BYTES};

/// Highest address mapped: 64 GiB.
const LIMIT: u64 = 64 << 30;
const GIB: u64 = 1 << 30;
const MAPPED_AT_BOOT: u64 = 4 * GIB;
const DIRECTORIES: usize = ((LIMIT - MAPPED_AT_BOOT) / GIB) as usize;

unsafe extern "C" {
    static image_start: [u8; 0];
    static image_end: [u8; 0];
    static mut page_directories: [u64; 512];
}

#[repr(C, align(4096))]
struct Directories([[u64; 512]; DIRECTORIES]);
static mut HIGH_DIRECTORIES: Directories = Directories([[0; 512]; DIRECTORIES]);

/// The PVH boot protocol's `hvm_start_info`, as far as it is used (Xen's `public/arch-x86/hvm/start_info.h`).
#[repr(C)]
pub struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    /// Address of the command line.
    pub command_line: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
}

#[repr(C)]
struct MapEntry {
    address: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

impl StartInfo {
    const MAGIC: u32 = 0x336e_c578;
    const RAM: u32 = 1;

    /// The structure at an address, if it is one that has a memory map.
    pub fn at(start: u64) -> Option<&'static Self> {
        // SAFETY: the boot protocol promises the structure; all memory is mapped, and nothing has written to it yet.
        let info = unsafe { &*address::<Self>(start as usize) };
        (info.magic == Self::MAGIC && info.version >= 1).then_some(info)
    }

    /// RAM by the memory map, as whole pages below [`LIMIT`].
    fn ram(&self) -> impl Iterator<Item = PageRange> {
        // SAFETY: as in `at`.
        let map = unsafe {
            core::slice::from_raw_parts(address::<MapEntry>(self.map as usize), self.map_entries as usize)
        };
        map.iter().filter(|entry| entry.kind == Self::RAM).map(|entry| PageRange {
            start: entry.address.div_ceil(PAGE_SIZE as u64),
            end: (entry.address + entry.bytes).min(LIMIT) / PAGE_SIZE as u64,
        })
    }
}

/// The guest's memory, sorted out.
pub struct Layout {
    /// Pages under the oracle.
    pub owned: Memory,
    /// Table of sequences: one word for each page of the working set.
    pub table: &'static mut [u64],
}

/// Pages of the image, tables and stacks included.
pub fn image() -> PageRange {
    PageRange {
        start: (&raw const image_start).addr() as u64 / PAGE_SIZE as u64,
        end: (&raw const image_end).addr() as u64 / PAGE_SIZE as u64,
    }
}

/// Divides memory: image and telemetry, the writers' table, and all else for the oracle. `None` if there is too little.
///
/// The oracle's order: what lies above the image, what lies above 4 GiB, and last what lies below the image, where the
/// start of other processors still needs a page until the fill.
pub fn divide(info: &StartInfo, working_set_bytes: u64) -> Option<Layout> {
    let image = image();
    let telemetry = PageRange {
        start: TELEMETRY_ADDRESS / PAGE_SIZE as u64,
        end: (TELEMETRY_ADDRESS + TELEMETRY_BYTES as u64) / PAGE_SIZE as u64,
    };
    let total: u64 = info.ram().map(|ram| ram.len()).sum();
    let working_set = (working_set_bytes / PAGE_SIZE as u64).min(total);
    let table_pages = (working_set * 8).div_ceil(PAGE_SIZE as u64);
    let table = PageRange { start: image.end, end: image.end + table_pages };

    // SAFETY: these pages are RAM that nothing uses: not image, telemetry or table, and what firmware and boot protocol
    // left there has been read. Each vCPU gets its own indices.
    let mut owned = unsafe { Memory::new(address_mut(0)) };
    let mut table_fits = false;
    for ram in info.ram().filter(|ram| ram.end > image.start) {
        map_above_4_gib(ram.end);
        table_fits |= ram.start <= table.start && table.end < ram.end;
        owned.push(PageRange { start: ram.start.max(table.end), end: ram.end });
    }
    for ram in info.ram() {
        // Page 0 stays out: a null pointer's page is not worth a special case.
        owned.push(PageRange { start: ram.start.max(1), end: ram.end.min(telemetry.start) });
        owned.push(PageRange { start: ram.start.max(telemetry.end), end: ram.end.min(image.start) });
    }
    if !table_fits {
        return None;
    }
    let words = working_set.min(owned.page_count()) as usize;
    // SAFETY: the table's pages are RAM after the image that `owned` leaves out; this runs once.
    let table = unsafe {
        core::slice::from_raw_parts_mut(address_mut::<u64>(table.start as usize * PAGE_SIZE), words)
    };
    table.fill(0);
    Some(Layout { owned, table })
}

/// Maps all up to the page `end`: 2 MiB pages, open to ring 3, accessed and dirty preset.
fn map_above_4_gib(end: u64) {
    let mut gib = MAPPED_AT_BOOT / GIB;
    while gib * GIB < end * PAGE_SIZE as u64 {
        // SAFETY: only vCPU 0 runs yet. The directory is filled before it is linked, and no entry that is present
        // changes, so no TLB needs a flush.
        unsafe {
            let directory = &raw mut HIGH_DIRECTORIES.0[(gib - MAPPED_AT_BOOT / GIB) as usize];
            if page_directories[gib as usize] == 0 {
                for (i, entry) in (*directory).iter_mut().enumerate() {
                    *entry = (gib * GIB + ((i as u64) << 21)) | 0xe7;
                }
                (&raw mut page_directories[gib as usize]).write_volatile(directory as u64 | 0x27);
            }
        }
        gib += 1;
    }
}

/// Whether firmware ran before this guest: there is a jump at the processor's reset vector below 1 MiB.
pub fn has_firmware() -> bool {
    // SAFETY: mapped; reads RAM, ROM or nothing.
    unsafe { address::<u8>(0xf_fff0).read_volatile() != 0 }
}
