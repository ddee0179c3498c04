use std::sync::Arc;

use super::*;
use crate::config::Backing;

/// Issue 12, entry 13: whatever way pages come, area and guest together hold each of them once.
#[test]
fn entry_13_area_and_guest_hold_each_page_once() {
    if let Err(reason) = MissingPages::probe() {
        println!("skipped: entry_13_area_and_guest_hold_each_page_once: {reason}");
        return;
    }
    const BLOCKS: u64 = 20;
    // The last block is not a whole one.
    let bytes = (BLOCKS * PAGES_PER_BLOCK + 100) * PAGE_BYTES;
    let memory = Arc::new(GuestMemory::new(bytes, Backing::Anonymous).expect("memory"));
    let area = LandingArea::new(&memory).expect("an area");
    area.populate_while(&|| true).expect("populates");
    let missing = MissingPages::open(&memory).expect("opens").with_landing_area(area);
    let area = missing.landing_area().expect("an area");
    let (mut left, mut taken) = (memory.page_count(), 0);
    for first in (0..memory.page_count()).step_by(PAGES_PER_BLOCK as usize) {
        let block = first..memory.page_count().min(first + PAGES_PER_BLOCK);
        let length = block.end - block.start;
        let sent = vec![first as u8 | 1; (length * PAGE_BYTES) as usize];
        let page = &sent[..PAGE_BYTES as usize];
        let receive = || {
            // SAFETY: the block is taken by this thread.
            unsafe { area.as_ptr().add((first * PAGE_BYTES) as usize).copy_from(sent.as_ptr(), sent.len()) };
        };
        let installed = match (length, first / PAGES_PER_BLOCK % 5) {
            // Pushed in one piece.
            (PAGES_PER_BLOCK, 0) if missing.take(&block) => {
                taken += 1;
                receive();
                missing.install_landed(block.clone())
            }
            // A page of it was requested before.
            (PAGES_PER_BLOCK, 1) => {
                missing.install(first + 7, page).expect("installs");
                assert!(!missing.take(&block), "it cannot be moved any more");
                missing.install(first, &sent).map(|installed| installed + 1)
            }
            // A page of it is requested while it is being received.
            (PAGES_PER_BLOCK, 2) if missing.take(&block) => {
                taken += 1;
                receive();
                missing.install(first + 7, page).expect("installs");
                missing.install_landed(block.clone()).map(|installed| installed + 1)
            }
            // It holds nothing.
            (_, 3) => missing.install_zeros(first, length),
            // It is pushed in short frames.
            _ => {
                let parts = sent.chunks(64 * PAGE_BYTES as usize).zip((first..).step_by(64));
                parts.map(|(part, at)| missing.install(at, part)).sum()
            }
        };
        missing.leave(&block);
        assert_eq!(installed.expect("installs"), length, "pages from {first} on");
        left -= length;
        let mut bits = vec![0; memory.bitmap_words()];
        area.resident(&mut bits);
        let in_area: u64 = bits.iter().map(|word| u64::from(word.count_ones())).sum();
        assert!(in_area <= left, "{in_area} pages in the area, and {left} are still to come");
    }
    assert!(taken > 0 || !missing.userfault.uffd().can_move, "blocks are moved where the kernel can");
    missing.close().expect("closes");
    let mut byte = [0];
    for page in 0..memory.page_count() {
        let first = page / PAGES_PER_BLOCK * PAGES_PER_BLOCK;
        memory.read(page * PAGE_BYTES + 9, &mut byte).expect("in memory");
        let zero = first / PAGES_PER_BLOCK % 5 == 3;
        assert_eq!(byte[0], if zero { 0 } else { first as u8 | 1 }, "page {page}");
    }
}
