//! Verification of one page.

use super::fill::Fill;
use super::mismatch::{Mismatch, MismatchKind};
use super::stamp::{FILL_WRITER, Page, STAMP_BYTES, Stamp};

/// Verifies every byte of a page: against its stamp as expected, or as a page nobody wrote (`None`).
///
/// # Errors
/// What is wrong with the page, named. `page_number` names it where no stamp is expected.
#[inline]
pub fn verify_page(
    page: &Page,
    page_number: u64,
    expected: Option<&Stamp>,
    seed: u64,
    fill: Fill,
) -> Result<(), Mismatch> {
    let right = match expected {
        None => is_zero(page),
        Some(stamp) => holds(page, stamp, fill),
    };
    if right { Ok(()) } else { Err(diagnose(page, page_number, expected, seed, fill)) }
}

/// Whether all of a page is zero.
#[inline]
#[must_use]
pub fn is_zero(page: &Page) -> bool {
    let (words, _) = page.as_chunks::<8>();
    words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word)) == 0
}

/// Whether a page is exactly what [`super::stamp_page`] writes. Branchless within the page: pages are nearly always right.
#[inline]
fn holds(page: &Page, stamp: &Stamp, fill: Fill) -> bool {
    let (head, body) = page.split_at(STAMP_BYTES);
    let (head, _) = head.as_chunks::<8>();
    let (body, _) = body.as_chunks::<8>();
    let head = head
        .iter()
        .zip(stamp.words())
        .fold(0, |all, (found, word)| all | (u64::from_le_bytes(*found) ^ word));
    let body = match fill {
        Fill::Text => difference(body, |i| Fill::text_word(stamp.hash, i)),
        Fill::Random | Fill::Zeros => difference(body, |i| Fill::random_word(stamp.hash, i)),
    };
    head | body == 0
}

#[inline(always)]
fn difference(body: &[[u8; 8]], word: impl Fn(u64) -> u64) -> u64 {
    body.iter().enumerate().fold(0, |all, (i, found)| all | (u64::from_le_bytes(*found) ^ word(i as u64)))
}

#[cold]
fn diagnose(page: &Page, number: u64, expected: Option<&Stamp>, seed: u64, fill: Fill) -> Mismatch {
    let mut right: Page = [0; super::PAGE_SIZE];
    if let Some(stamp) = expected {
        super::stamp_page(&mut right, stamp, fill);
    }
    let offset = page.iter().zip(&right).position(|(found, right)| found != right).unwrap_or(0) as u64;
    let found = Stamp::read(page);
    let kind = match expected {
        None => MismatchKind::NotZero,
        Some(_) if is_zero(page) => MismatchKind::Lost,
        Some(stamp) if found == *stamp => MismatchKind::Torn,
        Some(_) if !found.is_sound(seed) => MismatchKind::Corrupt,
        // The fill has sequence 0, so it counts as older than any write, whoever wrote that.
        Some(stamp) if found.page == stamp.page && found.writer == FILL_WRITER => MismatchKind::Stale,
        Some(stamp) if found.page == stamp.page && (found.writer == stamp.writer || stamp.sequence == 0) => {
            if found.sequence < stamp.sequence {
                MismatchKind::Stale
            } else {
                MismatchKind::Newer
            }
        }
        Some(_) => MismatchKind::Misplaced,
    };
    Mismatch { kind, page: number, expected: expected.copied().unwrap_or(Stamp::ZERO), found, offset }
}
