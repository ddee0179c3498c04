//! What a process costs beside its guest's memory.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    ops::Range,
};

use engine::pages::{GuestPages, PageRun};

/// Where guest memory lies in this process.
#[derive(Clone, Debug)]
pub struct Footprint(Range<usize>);

impl Footprint {
    /// Of a machine's memory.
    pub fn of(pages: &dyn GuestPages) -> Footprint {
        let bytes = pages.bytes(PageRun::new(0, pages.page_count()));
        let start = bytes.as_ptr() as usize;
        Footprint(start..start + bytes.len())
    }

    /// Resident bytes of this process but for guest memory. Walks all of the process's page tables: not for a loop.
    pub fn overhead_bytes(&self) -> Option<u64> {
        let smaps = BufReader::new(File::open("/proc/self/smaps").ok()?);
        Some(overhead_of(smaps.lines().map_while(Result::ok), &self.0))
    }
}

/// The sum of `Rss` over the mappings that do not begin within `guest`.
fn overhead_of(smaps: impl Iterator<Item = String>, guest: &Range<usize>) -> u64 {
    let mut is_guest = false;
    let mut kibibytes = 0;
    for line in smaps {
        if let Some(rss) = line.strip_prefix("Rss:") {
            let resident: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            kibibytes += if is_guest { 0 } else { resident };
        } else if let Some(start) = line.split_once('-').and_then(|(s, _)| usize::from_str_radix(s, 16).ok())
        {
            is_guest = guest.contains(&start);
        }
    }
    kibibytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_mappings_do_not_count() {
        let smaps = "1000-3000 rw-p 0 0\nSize: 8 kB\nRss:    4 kB\n5000-9000 rw-p 0 0\nRss:  16 kB\n";
        let lines = || smaps.lines().map(str::to_owned);
        assert_eq!(overhead_of(lines(), &(0x5000..0x9000)), 4 << 10);
        assert_eq!(overhead_of(lines(), &(0x4000..0x9000)), 4 << 10);
        assert_eq!(overhead_of(lines(), &(0..0)), 20 << 10);
    }
}
