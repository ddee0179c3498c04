//! A guest's writes are read back by the host, whole or not at all.

use core::hint::black_box;
use core::mem::size_of;
use core::sync::atomic::Ordering::Relaxed;
use std::boxed::Box;
use std::vec::Vec;

use super::*;
use crate::gaps::{Activity, StepClock};
use crate::layout::{CHECK_REQUEST_ADDRESS, GAP_EPOCH_ADDRESS, STOP_REQUEST_ADDRESS, TELEMETRY_ADDRESS};
use crate::oracle::{MismatchKind, Stamp};

const KHZ: u64 = 1_000_000;

/// Telemetry as a guest with `vcpus` vCPUs has it at boot.
fn telemetry(vcpus: u64) -> Box<Telemetry> {
    let layout = std::alloc::Layout::new::<Telemetry>();
    // SAFETY: all of `Telemetry` is atomics, for which zero is a value; the layout is its own.
    let telemetry = unsafe { Box::from_raw(std::alloc::alloc_zeroed(layout).cast::<Telemetry>()) };
    telemetry.header.version.store(VERSION, Relaxed);
    telemetry.header.phase.store(Phase::Running as u64, Relaxed);
    telemetry.header.vcpus.store(vcpus, Relaxed);
    telemetry.header.tsc_khz.store(KHZ, Relaxed);
    telemetry.header.magic.store(MAGIC, Relaxed);
    telemetry
}

fn bytes(telemetry: &Telemetry) -> Vec<u8> {
    // SAFETY: `Telemetry` has no padding that is not within its pages, and nobody writes it now.
    unsafe { core::slice::from_raw_parts((&raw const *telemetry).cast::<u8>(), size_of::<Telemetry>()) }
        .to_vec()
}

#[test]
fn what_is_no_telemetry_is_refused_with_the_reason() {
    let good = bytes(&telemetry(1));
    assert_eq!(Snapshot::parse(&good[1..]).unwrap_err(), SnapshotError::Truncated { bytes: good.len() - 1 });
    assert_eq!(Snapshot::parse(&vec_of_zeros()).unwrap_err(), SnapshotError::NotStarted);
    let other = telemetry(1);
    other.header.version.store(VERSION + 1, Relaxed);
    assert_eq!(Snapshot::parse(&bytes(&other)).unwrap_err(), SnapshotError::Version { found: VERSION + 1 });
    let crowded = bytes(&telemetry(17));
    let error = SnapshotError::BadWord { name: "vCPU count", value: 17 };
    assert_eq!(Snapshot::parse(&crowded).unwrap_err(), error);
}

fn vec_of_zeros() -> Vec<u8> {
    std::vec![0; TELEMETRY_BYTES]
}

#[test]
fn gaps_are_kept_by_length_and_by_time() {
    let telemetry = telemetry(2);
    let mut clock = StepClock::new(&telemetry.vcpus[1], 0, KHZ, 50);
    let mut now = 0;
    let mut step = |clock: &mut StepClock<'_>, microseconds: u64, activity| {
        now += microseconds * 1_000;
        clock.step(now, activity);
        now
    };
    let long = step(&mut clock, 8_000, Activity::Spin);
    for _ in 0..100 {
        step(&mut clock, 60, Activity::Write);
        step(&mut clock, 1, Activity::Spin);
        step(&mut clock, 10, Activity::Check);
    }
    let snapshot = Snapshot::parse(&bytes(&telemetry)).unwrap();
    let vcpu = &snapshot.vcpus[1];
    // The first gap has left the ring of recent ones, but not the table of the longest.
    assert_eq!((vcpu.gaps, vcpu.recent_gaps.len(), vcpu.longest_gaps.len()), (101, 32, 16));
    assert_eq!(vcpu.longest_gaps[0], Gap { start_tsc: 0, ticks: 8_000_000, activity: Activity::Spin });
    assert_eq!(snapshot.longest_gap_since(0), Some((1, vcpu.longest_gaps[0])));
    assert_eq!(snapshot.longest_gap_since(long + 1).unwrap().1.ticks, 60_000);
    assert_eq!(vcpu.gap_histogram.iter().sum::<u64>(), 201, "steps of 1 us are below the floor");
    assert_eq!(vcpu.gap_histogram[15], 100, "60 000 ticks are between 2^15 and 2^16");
    assert_eq!(snapshot.duration(vcpu.longest_gaps[0].ticks).as_micros(), 8_000);

    clock.begin_epoch(7);
    let after = step(&mut clock, 70, Activity::Console);
    let snapshot = Snapshot::parse(&bytes(&telemetry)).unwrap();
    let vcpu = &snapshot.vcpus[1];
    assert_eq!((vcpu.gap_epoch, vcpu.gap_epoch_tsc), (7, after - 70_000));
    assert_eq!(vcpu.longest_gaps.len(), 1);
    assert_eq!(vcpu.longest_gaps[0].ticks, 70_000);
    assert!(!snapshot.in_gap_epoch(7), "vCPU 0 has not seen it yet");

    let gaps = vcpu.gaps;
    step(&mut clock, 1_000, Activity::Halt);
    step(&mut clock, 2_050, Activity::Halt);
    let vcpu = &Snapshot::parse(&bytes(&telemetry)).unwrap().vcpus[1];
    assert_eq!(vcpu.gaps, gaps + 1, "sleep until the next tick is no event");
}

#[test]
fn a_clock_that_goes_back_is_counted_and_is_no_gap() {
    let telemetry = telemetry(1);
    let mut clock = StepClock::new(&telemetry.vcpus[0], 1_000_000, KHZ, 50);
    clock.step(5, Activity::Spin);
    clock.step(10, Activity::Spin);
    let vcpu = &Snapshot::parse(&bytes(&telemetry)).unwrap().vcpus[0];
    assert_eq!((vcpu.tsc_backwards, vcpu.gaps), (1, 0));
}

#[test]
fn a_torn_record_is_left_out() {
    let telemetry = telemetry(1);
    let mut clock = StepClock::new(&telemetry.vcpus[0], 0, KHZ, 50);
    clock.step(1_000_000, Activity::Spin);
    let mut torn = bytes(&telemetry);
    let record = offset_of!(Telemetry, vcpus) + offset_of!(crate::layout::VcpuPart, longest_gaps);
    torn[record + 8] ^= 1;
    let vcpu = &Snapshot::parse(&torn).unwrap().vcpus[0];
    assert_eq!((vcpu.longest_gaps.len(), vcpu.recent_gaps.len()), (0, 1));
}

#[test]
fn errors_are_read_back_with_their_names() {
    let telemetry = telemetry(1);
    let mismatch = Mismatch {
        kind: MismatchKind::Stale,
        page: 0x1234,
        expected: Stamp::new(1, 0x1234, 9, 0),
        found: Stamp::new(1, 0x1234, 8, 0),
        offset: 8,
    };
    telemetry.vcpus[0].named_errors[0].store(&mismatch);
    telemetry.vcpus[0].errors.store(1, Relaxed);
    let snapshot = Snapshot::parse(&bytes(&telemetry)).unwrap();
    assert_eq!(snapshot.named_errors().collect::<Vec<_>>(), [&mismatch]);
    assert_eq!(snapshot.errors(), 1);
}

#[test]
fn a_check_is_done_when_all_vcpus_have_done_it() {
    let telemetry = telemetry(2);
    for (part, pages) in telemetry.vcpus.iter().zip([10, 20]) {
        assert_eq!(Snapshot::parse(&bytes(&telemetry)).unwrap().check_result(3), None);
        part.check_pages.store(pages, Relaxed);
        part.check_done.store(3, Relaxed);
    }
    let result = Snapshot::parse(&bytes(&telemetry)).unwrap().check_result(3);
    assert_eq!(result, Some(CheckResult { request: 3, pages: 30, errors: 0, ticks: 0 }));
}

#[test]
fn network_counters_are_read_back() {
    let telemetry = telemetry(1);
    let network = &telemetry.header.network;
    network.frames_in.store(1, Relaxed);
    network.frames_out.store(2, Relaxed);
    network.connections.store(3, Relaxed);
    network.requests.store(4, Relaxed);
    network.datagrams.store(5, Relaxed);
    network.errors.store(6, Relaxed);
    let expected =
        NetworkCounters { frames_in: 1, frames_out: 2, connections: 3, requests: 4, datagrams: 5, errors: 6 };
    assert_eq!(Snapshot::parse(&bytes(&telemetry)).unwrap().network, expected);
}

#[test]
fn request_words_lie_in_the_hosts_page() {
    assert_eq!(CHECK_REQUEST_ADDRESS, TELEMETRY_ADDRESS + 4096);
    assert_eq!(GAP_EPOCH_ADDRESS, TELEMETRY_ADDRESS + 4104);
    assert_eq!(STOP_REQUEST_ADDRESS, TELEMETRY_ADDRESS + 4112);
}

#[test]
fn a_guest_that_lies_is_decoded_or_refused_without_a_panic() {
    let (mut decoded, mut refused) = (0, 0);
    let mut random = 7u64;
    let mut next = || {
        random = crate::words::mix(random.wrapping_add(crate::words::STEP));
        random
    };
    for round in 0..200 {
        let mut lies = bytes(&telemetry(16));
        // Mostly a few wild words in the vCPUs' pages; at times all of them, and the header's.
        let count = if round % 10 == 0 { 9_000 } else { 40 };
        for _ in 0..count {
            let from = if round % 20 == 0 { 24 } else { 8_192 };
            let at = from + next() as usize % (lies.len() - 8 - from);
            lies[at..at + 8].copy_from_slice(&next().to_le_bytes());
        }
        let Ok(snapshot) = Snapshot::parse(&lies) else {
            refused += 1;
            continue;
        };
        decoded += 1;
        assert!((1..=16).contains(&snapshot.vcpus.len()));
        // What they say is the guest's; that they say it, whatever it wrote, is ours.
        black_box((snapshot.errors(), snapshot.heartbeat(), snapshot.pages_written()));
        black_box((snapshot.check_result(0), snapshot.next_check_request()));
        let since = next();
        if let Some((vcpu, gap)) = snapshot.longest_gap_since(since) {
            assert!(vcpu < snapshot.vcpus.len() && gap.end_tsc() >= since, "vCPU {vcpu}, {gap:?}");
            black_box(snapshot.duration(gap.ticks));
        }
    }
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused");
}

#[test]
fn telemetry_cut_at_any_page_is_refused() {
    let good = bytes(&telemetry(1));
    for end in (0..good.len()).step_by(509) {
        assert_eq!(Snapshot::parse(&good[..end]).unwrap_err(), SnapshotError::Truncated { bytes: end });
    }
}
