//! One vCPU's page, decoded.

use std::vec::Vec;

use core::mem::{offset_of, size_of};

use super::words::Words;
use super::{SnapshotError, phase};
use crate::gaps::Gap;
use crate::layout::{GAP_BUCKETS, LONGEST_GAPS, Phase, RECENT_GAPS, Telemetry, VcpuPart};
use crate::oracle::Mismatch;

/// A vector register that did not keep what was put into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterError {
    /// Number of the register.
    pub register: u64,
    /// Which of its 64-bit words.
    pub word: u64,
    /// What was put into it.
    pub expected: u64,
    /// What it held.
    pub found: u64,
}

/// One vCPU's telemetry.
#[derive(Debug, Clone)]
pub struct Vcpu {
    /// Its number.
    pub number: usize,
    /// What it is doing.
    pub phase: Phase,
    /// Steps so far.
    pub heartbeat: u64,
    /// TSC at its last step.
    pub step_tsc: u64,
    /// Pages it wrote: its last sequence number.
    pub pages_written: u64,
    /// Times it slept.
    pub halts: u64,
    /// Times its TSC went backwards.
    pub tsc_backwards: u64,
    /// The guest's clock in nanoseconds (vCPU 0 only; 0 where there is no kvmclock).
    pub clock_ns: u64,
    /// Times that clock went backwards.
    pub clock_backwards: u64,
    /// Comparisons of its vector registers.
    pub register_checks: u64,
    /// Of those, how many found a difference.
    pub register_errors: u64,
    /// The last of these differences, if there was one.
    pub register_error: Option<RegisterError>,
    /// Width of its vector registers in bytes.
    pub register_bytes: u64,
    /// The last of the host's checks it finished.
    pub check_done: u64,
    /// The last of the guest's own checks it finished.
    pub own_check_done: u64,
    /// Checks finished.
    pub checks: u64,
    /// Pages verified in the last.
    pub check_pages: u64,
    /// Errors found in the last.
    pub check_errors: u64,
    /// Ticks the last took.
    pub check_ticks: u64,
    /// Pages verified in all.
    pub pages_checked: u64,
    /// Errors found in all.
    pub errors: u64,
    /// The first errors, named.
    pub named_errors: Vec<Mismatch>,
    /// The gap epoch it is in.
    pub gap_epoch: u64,
    /// TSC when that began.
    pub gap_epoch_tsc: u64,
    /// Gaps over the threshold since boot.
    pub gaps: u64,
    /// Gaps of this epoch by log2 of their TSC ticks.
    pub gap_histogram: [u64; GAP_BUCKETS],
    /// The longest gaps of this epoch, longest first.
    pub longest_gaps: Vec<Gap>,
    /// The most recent gaps over the threshold, oldest first.
    pub recent_gaps: Vec<Gap>,
}

impl Vcpu {
    pub(super) fn parse(bytes: &[u8], number: usize) -> Result<Self, SnapshotError> {
        let part = Words { bytes, base: offset_of!(Telemetry, vcpus) + number * size_of::<VcpuPart>() };
        let gaps = part.at(offset_of!(VcpuPart, gaps));
        let mut longest_gaps = part.gaps(offset_of!(VcpuPart, longest_gaps), LONGEST_GAPS);
        longest_gaps.sort_by_key(|gap| core::cmp::Reverse(gap.ticks));
        let mut recent_gaps = part.gaps(offset_of!(VcpuPart, recent_gaps), RECENT_GAPS);
        recent_gaps.sort_by_key(|gap| gap.start_tsc);
        let register_errors = part.at(offset_of!(VcpuPart, register_errors));
        let register_bytes = part.at(offset_of!(VcpuPart, register_bytes));
        let register_error = (register_errors > 0).then(|| {
            let word = part.at(offset_of!(VcpuPart, register_error_word));
            let words = (register_bytes / 8).max(1);
            RegisterError {
                register: word / words,
                word: word % words,
                expected: part.at(offset_of!(VcpuPart, register_error_expected)),
                found: part.at(offset_of!(VcpuPart, register_error_found)),
            }
        });
        Ok(Self {
            number,
            // Before a vCPU starts, its part is all zero.
            phase: match part.at(offset_of!(VcpuPart, phase)) {
                0 => Phase::Booting,
                word => phase(word)?,
            },
            heartbeat: part.at(offset_of!(VcpuPart, heartbeat)),
            step_tsc: part.at(offset_of!(VcpuPart, step_tsc)),
            pages_written: part.at(offset_of!(VcpuPart, pages_written)),
            halts: part.at(offset_of!(VcpuPart, halts)),
            tsc_backwards: part.at(offset_of!(VcpuPart, tsc_backwards)),
            clock_ns: part.at(offset_of!(VcpuPart, clock_ns)),
            clock_backwards: part.at(offset_of!(VcpuPart, clock_backwards)),
            register_checks: part.at(offset_of!(VcpuPart, register_checks)),
            register_errors,
            register_error,
            register_bytes,
            check_done: part.at(offset_of!(VcpuPart, check_done)),
            own_check_done: part.at(offset_of!(VcpuPart, own_check_done)),
            checks: part.at(offset_of!(VcpuPart, checks)),
            check_pages: part.at(offset_of!(VcpuPart, check_pages)),
            check_errors: part.at(offset_of!(VcpuPart, check_errors)),
            check_ticks: part.at(offset_of!(VcpuPart, check_ticks)),
            pages_checked: part.at(offset_of!(VcpuPart, pages_checked)),
            errors: part.at(offset_of!(VcpuPart, errors)),
            named_errors: part.errors(),
            gap_epoch: part.at(offset_of!(VcpuPart, gap_epoch)),
            gap_epoch_tsc: part.at(offset_of!(VcpuPart, gap_epoch_tsc)),
            gaps,
            gap_histogram: core::array::from_fn(|i| part.at(offset_of!(VcpuPart, gap_histogram) + i * 8)),
            longest_gaps,
            recent_gaps,
        })
    }
}
