//! Single pages: every byte counts, and content compresses as it should.

use std::vec::Vec;

use super::super::*;
use super::SEED;

#[test]
fn any_flipped_byte_of_a_page_is_found() {
    for fill in [Fill::Random, Fill::Text] {
        let stamp = Stamp::new(SEED, 9, 1, 0);
        let mut page = [0; PAGE_SIZE];
        stamp_page(&mut page, &stamp, fill);
        assert_eq!(verify_page(&page, 9, Some(&stamp), SEED, fill), Ok(()));
        for offset in 0..PAGE_SIZE {
            page[offset] ^= 0x10;
            let found = verify_page(&page, 9, Some(&stamp), SEED, fill).unwrap_err();
            assert_eq!((found.page, found.offset), (9, offset as u64));
            page[offset] ^= 0x10;
        }
    }
}

#[test]
fn content_compresses_as_it_says() {
    let ratio = |fill, level| {
        let mut chunk = Vec::new();
        for number in 0..16 {
            let mut page = [0; PAGE_SIZE];
            stamp_page(&mut page, &Stamp::of_fill(SEED, number), fill);
            chunk.extend_from_slice(&page);
        }
        let compressed = zstd::bulk::compress(&chunk, level).unwrap();
        chunk.len() as f64 / compressed.len() as f64
    };
    for level in [-5, 1, 3] {
        std::println!(
            "zstd {level}: random {:.2}, text {:.2}",
            ratio(Fill::Random, level),
            ratio(Fill::Text, level)
        );
    }
    assert!(ratio(Fill::Random, 3) < 1.01);
    assert!((2.5..4.0).contains(&ratio(Fill::Text, 1)), "{}", ratio(Fill::Text, 1));
}
