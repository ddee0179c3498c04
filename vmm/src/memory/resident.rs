//! Which pages were ever backed by the host.
//!
//! Anonymous memory is asked of `/proc/self/pagemap` by PAGEMAP_SCAN (Linux 6.7), which answers in ranges and walks huge
//! pages as one; older kernels read the same file, 8 bytes a page. A memfd's pages may be in the file without being
//! mapped, so there the file itself is asked where its data lies (SEEK_DATA).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use linux_raw_sys::general::{page_region, pm_scan_arg};
use rustix::fs::SeekFrom;
use thiserror::Error;

use super::bitmap::PAGES_PER_WORD;
use super::layout::PAGE_BYTES;
use super::mapping::Mapping;

/// The host would not say which pages are backed.
#[derive(Debug, Error)]
#[error("ask {place} which pages of guest memory are backed")]
pub struct ResidentError {
    place: &'static str,
    source: io::Error,
}

// include/uapi/linux/fs.h: PAGEMAP_SCAN = _IOWR('f', 16, struct pm_scan_arg)
const PAGEMAP_SCAN: u64 = 0xc000_0000 | (size_of::<pm_scan_arg>() as u64) << 16 | (b'f' as u64) << 8 | 16;
const _: () = assert!(PAGEMAP_SCAN == 0xc060_6610);
// include/uapi/linux/fs.h: categories of pages
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
// Documentation/admin-guide/mm/pagemap.rst: bits of an entry
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;

/// Ranges taken from the kernel by one call: 6 KiB of stack.
const RANGES_PER_SCAN: usize = 256;

pub(super) fn resident(mapping: &Mapping, into: &mut [u64]) -> Result<(), ResidentError> {
    let pages = mapping.len() as u64 / PAGE_BYTES;
    assert!(
        into.len() as u64 >= pages.div_ceil(PAGES_PER_WORD),
        "bitmap of {} words is too short",
        into.len()
    );
    if let Some(file) = mapping.file() {
        return data_of_file(file, mapping.len() as u64, into)
            .map_err(|source| ResidentError { place: "the memory file", source });
    }
    let failed = |source| ResidentError { place: "/proc/self/pagemap", source };
    let pagemap = File::open("/proc/self/pagemap").map_err(failed)?;
    match scan(&pagemap, mapping, into) {
        // Kernels before 6.7 do not know the call.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            read_entries(&pagemap, mapping, into).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn scan(pagemap: &File, mapping: &Mapping, into: &mut [u64]) -> io::Result<()> {
    let base = mapping.as_ptr() as u64;
    let end = base + mapping.len() as u64;
    let mut start = base;
    while start < end {
        let mut ranges = [page_region { start: 0, end: 0, categories: 0 }; RANGES_PER_SCAN];
        let mut ask = pm_scan_arg {
            size: size_of::<pm_scan_arg>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: ranges.as_mut_ptr() as u64,
            vec_len: RANGES_PER_SCAN as u64,
            max_pages: 0,
            // Wanted: (present or swapped) and not the shared zero page, which is nothing but a read of nothing.
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
        };
        // SAFETY: `ask` and the vector it points to live across the call, and their sizes are stated in it.
        let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as libc::Ioctl, &mut ask) };
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for range in &ranges[..found as usize] {
            set_bits(into, (range.start - base) / PAGE_BYTES..(range.end - base) / PAGE_BYTES);
        }
        start = ask.walk_end;
    }
    Ok(())
}

fn read_entries(pagemap: &File, mapping: &Mapping, into: &mut [u64]) -> io::Result<()> {
    let first = mapping.as_ptr() as u64 / PAGE_BYTES;
    let pages = mapping.len() as u64 / PAGE_BYTES;
    let mut buffer = [0u8; 8 * 1024];
    let mut page = 0;
    while page < pages {
        let count = (pages - page).min(buffer.len() as u64 / 8);
        let bytes = &mut buffer[..count as usize * 8];
        pagemap.read_exact_at(bytes, (first + page) * 8)?;
        for (index, entry) in bytes.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().expect("a chunk of 8 bytes"));
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 {
                let page = page + index as u64;
                set_bits(into, page..page + 1);
            }
        }
        page += count;
    }
    Ok(())
}

fn data_of_file(file: &File, bytes: u64, into: &mut [u64]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // ENXIO: no data from here to the end.
            Err(rustix::io::Errno::NXIO) => break,
            // hugetlbfs does not know holes: all of it counts as data.
            Err(rustix::io::Errno::INVAL) => {
                set_bits(into, 0..bytes / PAGE_BYTES);
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?;
        set_bits(into, data / PAGE_BYTES..hole.min(bytes).div_ceil(PAGE_BYTES));
        at = hole;
    }
    Ok(())
}

/// Sets the bits of a half-open range of pages.
fn set_bits(into: &mut [u64], pages: Range<u64>) {
    let mut page = pages.start;
    while page < pages.end {
        let bit = page % PAGES_PER_WORD;
        let count = (PAGES_PER_WORD - bit).min(pages.end - page);
        into[(page / PAGES_PER_WORD) as usize] |= (u64::MAX >> (PAGES_PER_WORD - count)) << bit;
        page += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backing;

    #[test]
    fn set_bits_sets_just_the_range() {
        for start in [0, 1, 63, 64, 65, 127] {
            for end in start..192 {
                let mut bits = [0u64; 3];
                set_bits(&mut bits, start..end);
                for page in 0..192u64 {
                    let set = bits[page as usize / 64] >> (page % 64) & 1 == 1;
                    assert_eq!(set, (start..end).contains(&page), "page {page} of {start}..{end}");
                }
            }
        }
    }

    fn touched(backing: Backing) {
        let mapping = Mapping::new(16 << 20, backing).expect("16 MiB of memory");
        // One huge page away from anything else touched, as a huge page may come whole.
        let page = 2048u64;
        // SAFETY: page 2048 of 4096 lies within the mapping; no one else knows it.
        unsafe {
            mapping.as_ptr().add((page * PAGE_BYTES) as usize).write_volatile(1);
        };
        let mut bits = vec![0; 64];
        resident(&mapping, &mut bits).expect("residency of own memory");
        assert_eq!(bits[page as usize / 64] & 1, 1, "the touched page is resident");
        assert_eq!(&bits[..32], &[0; 32], "pages far below are not");
        assert_eq!(&bits[40..], &[0; 24], "pages far above are not");
    }

    #[test]
    fn only_touched_pages_are_resident() {
        touched(Backing::Anonymous);
        touched(Backing::Memfd);
    }

    #[test]
    fn both_ways_of_asking_agree() {
        let mapping = Mapping::new(16 << 20, Backing::Anonymous).expect("16 MiB of memory");
        mapping.populate(4096 * 3..4096 * 9).expect("populate six pages");
        let pagemap = File::open("/proc/self/pagemap").expect("own pagemap");
        let (mut scanned, mut entries) = (vec![0; 64], vec![0; 64]);
        if scan(&pagemap, &mapping, &mut scanned).is_err() {
            println!("skipped: both_ways_of_asking_agree: PAGEMAP_SCAN needs Linux 6.7");
            return;
        }
        read_entries(&pagemap, &mapping, &mut entries).expect("entries of own pagemap");
        assert_eq!(scanned, entries);
    }
}
