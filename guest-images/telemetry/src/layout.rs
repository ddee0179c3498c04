//! The telemetry pages: fixed offsets, 64-bit words, one writer for each page.
//!
//! ```text
//! TELEMETRY_ADDRESS ─► header     written by vCPU 0: who the guest is, its phase
//!            + 4 KiB ─► requests   written by the host only: check, gap epoch, stop
//!            + 8 KiB ─► vCPU 0     written by vCPU 0 only
//!           + 12 KiB ─► vCPU 1     …
//! ```
//! vCPUs share no page, so neither a cache line nor a dirty page bounces between them, and a host's write never meets a
//! guest's in one page.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::gaps::GapRecord;
use crate::oracle::Mismatch;

/// Guest-physical address of the telemetry pages: 1 MiB, the first RAM every machine has beyond its firmware's area.
pub const TELEMETRY_ADDRESS: u64 = 0x10_0000;
/// Size of all telemetry pages in bytes.
pub const TELEMETRY_BYTES: usize = size_of::<Telemetry>();
/// Most vCPUs a guest may have.
pub const MAX_VCPUS: usize = 16;
/// First word of the header once telemetry is valid.
pub const MAGIC: u64 = u64::from_le_bytes(*b"FerryTel");
/// Version of this layout; a decoder refuses any other.
pub const VERSION: u64 = 2;
/// The most recent gaps kept for each vCPU.
pub const RECENT_GAPS: usize = 32;
/// The longest gaps kept for each vCPU since the gap epoch.
pub const LONGEST_GAPS: usize = 16;
/// Buckets of the gap histogram: bucket `i` counts gaps of `2^i` to `2^(i+1)` TSC ticks.
pub const GAP_BUCKETS: usize = 48;
/// Errors named in full for each vCPU; more are only counted.
pub const NAMED_ERRORS: usize = 8;

/// Guest-physical address of the word a host increments to ask for a check of all memory.
pub const CHECK_REQUEST_ADDRESS: u64 =
    TELEMETRY_ADDRESS + (offset_of!(Telemetry, requests) + offset_of!(Requests, check)) as u64;
/// Guest-physical address of the word a host changes to have the longest gaps and histograms begin anew.
pub const GAP_EPOCH_ADDRESS: u64 =
    TELEMETRY_ADDRESS + (offset_of!(Telemetry, requests) + offset_of!(Requests, gap_epoch)) as u64;
/// Guest-physical address of the word that stops the guest: `code + 1` exits with `code` (0 asks nothing).
pub const STOP_REQUEST_ADDRESS: u64 =
    TELEMETRY_ADDRESS + (offset_of!(Telemetry, requests) + offset_of!(Requests, stop)) as u64;

/// All telemetry pages, as they lie in guest memory.
#[repr(C, align(4096))]
pub struct Telemetry {
    /// Written by vCPU 0.
    pub header: Header,
    /// Written by the host.
    pub requests: Requests,
    /// One page each, written by that vCPU.
    pub vcpus: [VcpuPart; MAX_VCPUS],
}

/// The guest as a whole.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`], stored last of the words that are fixed at boot.
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU64,
    /// A [`Phase`].
    pub phase: AtomicU64,
    /// vCPUs that run.
    pub vcpus: AtomicU64,
    /// Frequency of the time-stamp counter in kHz.
    pub tsc_khz: AtomicU64,
    /// TSC when the guest's entry code handed over.
    pub boot_tsc: AtomicU64,
    /// TSC when the guest became [`Phase::Running`].
    pub ready_tsc: AtomicU64,
    /// Pages under the oracle.
    pub owned_pages: AtomicU64,
    /// Pages filled at boot, of those.
    pub filled_pages: AtomicU64,
    /// Pages in the working set, of those.
    pub working_set_pages: AtomicU64,
    /// Seed of all content.
    pub seed: AtomicU64,
    /// A [`crate::Fill`], as its discriminant.
    pub fill: AtomicU64,
    /// Checks asked for by the guest itself (its console, its `check=` period).
    pub own_checks: AtomicU64,
    /// Exit code + 1 once the guest stops.
    pub stopped: AtomicU64,
    /// Exception that ended the guest: vector + 1, or 0.
    pub fault_vector: AtomicU64,
    /// Instruction pointer of that exception, or source line of a panic.
    pub fault_at: AtomicU64,
    /// CR2 at that exception.
    pub fault_address: AtomicU64,
    /// What the network service did (all zero without one).
    pub network: NetworkPart,
}

/// Counters of the network service, since boot.
#[repr(C)]
pub struct NetworkPart {
    /// Frames received.
    pub frames_in: AtomicU64,
    /// Frames sent.
    pub frames_out: AtomicU64,
    /// TCP connections accepted.
    pub connections: AtomicU64,
    /// HTTP requests answered, whatever the answer.
    pub requests: AtomicU64,
    /// UDP datagrams echoed.
    pub datagrams: AtomicU64,
    /// Requests refused, connections given up, and frames there was no room for.
    pub errors: AtomicU64,
}

/// What the host asks; the guest only reads it, about once a millisecond.
#[repr(C, align(4096))]
pub struct Requests {
    /// Number of the last check asked for.
    pub check: AtomicU64,
    /// A change begins a new gap epoch.
    pub gap_epoch: AtomicU64,
    /// Exit code + 1.
    pub stop: AtomicU64,
}

/// One vCPU.
#[repr(C, align(4096))]
pub struct VcpuPart {
    /// Steps of the loop so far. The spin loop's assembly increments this word and stores the next one: keep both first.
    pub heartbeat: AtomicU64,
    /// TSC at the last step.
    pub step_tsc: AtomicU64,
    /// Pages written: the sequence number of the last write.
    pub pages_written: AtomicU64,
    /// A [`Phase`].
    pub phase: AtomicU64,
    /// Timer ticks taken (only with `idle=halt`).
    pub halts: AtomicU64,
    /// Times the TSC went backwards between two steps.
    pub tsc_backwards: AtomicU64,
    /// The guest's clock in nanoseconds, by kvmclock (vCPU 0 only; 0 where there is none).
    pub clock_ns: AtomicU64,
    /// Times that clock went backwards.
    pub clock_backwards: AtomicU64,
    /// Spin loops after which the vector registers were compared.
    pub register_checks: AtomicU64,
    /// Of those, how many found another pattern than was loaded.
    pub register_errors: AtomicU64,
    /// The last wrong pattern: which 64-bit word of the register file (register `word * 8 / register_bytes`).
    pub register_error_word: AtomicU64,
    /// What that word should have held.
    pub register_error_expected: AtomicU64,
    /// What it held.
    pub register_error_found: AtomicU64,
    /// Width of the vector registers that carry the pattern: 16, 32 or 64 bytes.
    pub register_bytes: AtomicU64,
    /// Number of the last of the host's checks that this vCPU finished.
    pub check_done: AtomicU64,
    /// Number of the last of the guest's own checks that this vCPU finished.
    pub own_check_done: AtomicU64,
    /// Checks finished.
    pub checks: AtomicU64,
    /// Pages verified in the last finished check.
    pub check_pages: AtomicU64,
    /// Errors found in the last finished check.
    pub check_errors: AtomicU64,
    /// TSC ticks the last finished check took.
    pub check_ticks: AtomicU64,
    /// Pages verified in all.
    pub pages_checked: AtomicU64,
    /// Errors found in all; the first [`NAMED_ERRORS`] are in `named_errors`.
    pub errors: AtomicU64,
    /// The gap epoch this vCPU is in.
    pub gap_epoch: AtomicU64,
    /// TSC when that epoch began.
    pub gap_epoch_tsc: AtomicU64,
    /// Gaps that went to `recent_gaps` since boot; the next goes to slot `gaps % RECENT_GAPS`.
    pub gaps: AtomicU64,
    /// Log2 histogram of gaps in TSC ticks, this epoch.
    pub gap_histogram: [AtomicU64; GAP_BUCKETS],
    /// The longest gaps of this epoch, unordered.
    pub longest_gaps: [GapRecord; LONGEST_GAPS],
    /// The most recent gaps over the threshold, a ring that epochs do not clear.
    pub recent_gaps: [GapRecord; RECENT_GAPS],
    /// The first errors found.
    pub named_errors: [ErrorRecord; NAMED_ERRORS],
}

impl VcpuPart {
    /// Counts an error, and names it while there is room. By its own vCPU only.
    pub fn note_error(&self, mismatch: &Mismatch) {
        let errors = self.errors.load(Relaxed);
        if let Some(record) = self.named_errors.get(errors as usize) {
            record.store(mismatch);
        }
        self.errors.store(errors + 1, Relaxed);
    }
}

/// A [`Mismatch`] in telemetry: its words, sealed against torn reads.
#[repr(C)]
pub struct ErrorRecord {
    /// [`Mismatch::to_words`].
    pub words: [AtomicU64; Mismatch::WORDS],
    /// Seal of the words; 0 while empty.
    pub seal: AtomicU64,
}

impl ErrorRecord {
    /// Writes a mismatch.
    pub fn store(&self, mismatch: &Mismatch) {
        let words = mismatch.to_words();
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Relaxed);
        }
        self.seal.store(crate::words::seal(&words), Relaxed);
    }

    /// Reads it back; `None` while empty, or torn.
    #[must_use]
    pub fn load(&self) -> Option<Mismatch> {
        let words = core::array::from_fn(|i| self.words[i].load(Relaxed));
        Self::decode(&words, self.seal.load(Relaxed))
    }

    /// Decodes words and seal; `None` while empty, or torn.
    #[must_use]
    pub fn decode(words: &[u64; Mismatch::WORDS], seal: u64) -> Option<Mismatch> {
        if seal == crate::words::seal(words) { Mismatch::from_words(words) } else { None }
    }
}

/// What a guest, or one of its vCPUs, is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// Finding memory, clock and vCPUs.
    Booting = 1,
    /// Writing the initial content.
    Filling = 2,
    /// Ready: writers write, or idle.
    Running = 3,
    /// Running, and a check of all memory is under way.
    Checking = 4,
    /// Stopped on request.
    Halted = 5,
    /// Ended by an exception, a panic or bad input.
    Failed = 6,
}

impl Phase {
    /// The phase with this discriminant.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        Some(match word {
            1 => Self::Booting,
            2 => Self::Filling,
            3 => Self::Running,
            4 => Self::Checking,
            5 => Self::Halted,
            6 => Self::Failed,
            _ => return None,
        })
    }

    /// Whether boot and fill are over and the guest has not ended.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Running | Self::Checking)
    }
}

// The layout is a contract between binaries that may be built at different times: a change must change VERSION.
const _: () = {
    assert!(size_of::<Header>() == 4096);
    assert!(size_of::<Requests>() == 4096);
    assert!(size_of::<VcpuPart>() == 4096);
    assert!(TELEMETRY_BYTES == 4096 * (2 + MAX_VCPUS));
    assert!(offset_of!(VcpuPart, heartbeat) == 0 && offset_of!(VcpuPart, step_tsc) == 8);
    assert!(offset_of!(VcpuPart, gap_histogram) == 200);
    assert!(offset_of!(VcpuPart, longest_gaps) == 584);
    assert!(offset_of!(VcpuPart, recent_gaps) == 1096);
    assert!(offset_of!(VcpuPart, named_errors) == 2120);
    assert!(offset_of!(Header, fault_address) == 128);
    assert!(offset_of!(Header, network) == 136 && size_of::<NetworkPart>() == 48);
};
