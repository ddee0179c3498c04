//! A Linux guest between Linux hosts: what its users see of it.

use std::{fs, path::Path};

use engine::{pages::PAGE_SIZE, report::Report};
use testbed::{Bed, BedConfig};

use crate::{bed, by_hand::with_causes, linux_guest::Guest};

const STRATEGIES: [&str; 3] = ["stop-and-copy", "pre-copy", "post-copy"];

/// What a balloon of 32 MiB saves at least: of the pages that the guest puts into it some were zero before.
const BALLOON_SAVES: u64 = 8 << 20;

/// Keeps what shows how it went in the folder that FERRY_RESULTS names, if it does.
fn keep(name: &str, text: &str) {
    let Some(folder) = std::env::var_os("FERRY_RESULTS") else { return };
    fs::create_dir_all(&folder).expect("the folder of FERRY_RESULTS can be made");
    fs::write(Path::new(&folder).join(name), format!("{text}\n"))
        .expect("the folder of FERRY_RESULTS can be written to");
}

/// Says what crossed, and that it was no more than had to: what the guest left zero costs next to nothing.
///
/// Of 128 MiB Debian's kernel counts 72 as in use once it is up, and of what it calls free some 20 are not
/// zero any more. The rest is zero, or was never there.
fn expect_little(report: &Report) {
    let (moved, faults) = (&report.moved, &report.page_faults);
    println!(
        "{}: {} bytes, {} pages of {}, {} of them zero, in {} µs; downtime {:?} µs; {} faults, p50 {} µs, longest \
         {} µs",
        report.strategy,
        moved.bytes_sent,
        moved.pages_sent,
        report.memory_bytes / PAGE_SIZE as u64,
        moved.zero_pages,
        report.total_us,
        moved.downtime_engine_us,
        faults.count,
        faults.p50_us,
        faults.max_us,
    );
    let pages = report.memory_bytes / PAGE_SIZE as u64;
    assert!(moved.zero_pages > pages / 5, "{} of {pages} pages were zero", moved.zero_pages);
    let with_bytes = (moved.pages_sent - moved.zero_pages) * PAGE_SIZE as u64;
    assert!(moved.bytes_sent < with_bytes + with_bytes / 50, "{} bytes for {with_bytes}", moved.bytes_sent);
}

fn six_moves(bed: &Bed, vcpus: u8, context: &str) -> String {
    let mut guest = Guest::boot(bed, vcpus);
    let mut reports = Vec::new();
    for strategy in STRATEGIES {
        for (from, to) in [(0, 1), (1, 0)] {
            let report = guest.moves(bed.host(from), bed.host(to), strategy);
            expect_little(&report);
            reports.push(report);
        }
    }
    let words = guest.expect_no_complaint(context);
    if vcpus == 1 {
        moves_without_its_balloon(bed, &mut guest, &reports[1]);
        guest.expect_no_complaint("with a balloon");
        guest.stop(bed.host(1));
    } else {
        guest.stop(bed.host(0));
    }
    words
}

/// What is in a guest's balloon is not sent, and the guest gets it back where it went. `before` is what the last move by
/// stop-and-copy cost, by which every page goes once.
fn moves_without_its_balloon(bed: &Bed, guest: &mut Guest<'_>, before: &Report) {
    let inflated = guest.balloon(bed.host(0), "32MiB");
    assert_eq!(inflated, "32 MiB in the balloon");
    let report = guest.moves(bed.host(0), bed.host(1), "stop-and-copy");
    expect_little(&report);
    let (less, more) = (report.moved.bytes_sent, before.moved.bytes_sent);
    println!("{less} bytes with a balloon of 32 MiB, {more} without");
    assert!(less + BALLOON_SAVES < more, "{less} bytes with a balloon of 32 MiB, {more} without");
    assert_eq!(guest.balloon(bed.host(1), ""), inflated);
    assert_eq!(guest.balloon(bed.host(1), "0"), "the balloon is empty");
    guest.expect_well(bed.host(1), "after it got its memory back");
}

#[test]
fn there_and_back_by_each_strategy() {
    let Some(bed) = bed("linux::there_and_back_by_each_strategy", &BedConfig::with_linux_guest()) else {
        return;
    };
    for vcpus in [1, 2] {
        let words = six_moves(&bed, vcpus, &format!("{vcpus} vCPUs"));
        keep(&format!("linux-{vcpus}-vcpu-dmesg-after-six-moves.txt"), &words);
    }
}

#[test]
fn over_links_that_are_slow_or_lose_frames() {
    let test = "linux::over_links_that_are_slow_or_lose_frames";
    let Some(bed) = bed(test, &BedConfig::with_linux_guest()) else { return };
    let mut guest = Guest::boot(&bed, 1);
    for link in ["delay=20ms rate=100mbit", "loss=1%"] {
        bed.link(&link.parse().expect("a link")).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        for (from, to, strategy) in [(0, 1, "pre-copy"), (1, 0, "post-copy")] {
            expect_little(&guest.moves(bed.host(from), bed.host(to), strategy));
        }
    }
    guest.expect_no_complaint("over bad links");
}
