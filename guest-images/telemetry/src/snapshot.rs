//! The host's view of a guest: the telemetry pages, decoded.
//!
//! The bytes may be read while the guest runs: words are whole, records that were being written are left out, and
//! counters of different words may be some steps apart.

use std::vec::Vec;

use core::fmt;
use core::mem::{offset_of, size_of};

use crate::gaps::{Gap, GapRecord};
use crate::layout::{
    ErrorRecord, GAP_BUCKETS, Header, MAGIC, MAX_VCPUS, Phase, Requests, TELEMETRY_BYTES, Telemetry, VERSION, VcpuPart,
};
use crate::oracle::{Fill, Mismatch};

/// Why bytes are no telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// Fewer bytes than [`TELEMETRY_BYTES`].
    Truncated {
        /// How many there are.
        bytes: usize,
    },
    /// No magic: no guest of this kind, or one that has not begun to boot.
    NotStarted,
    /// A guest built with another layout.
    Version {
        /// Its version.
        found: u64,
    },
    /// A word that has no such value.
    BadWord {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { bytes } => write!(f, "telemetry has {TELEMETRY_BYTES} bytes, these are {bytes}"),
            Self::NotStarted => f.write_str("no telemetry here: the guest has not started, or is another"),
            Self::Version { found } => write!(f, "telemetry of version {found}, this program reads {VERSION}"),
            Self::BadWord { name, value } => write!(f, "telemetry's {name} is {value:#x}, which is none"),
        }
    }
}

impl core::error::Error for SnapshotError {}

/// A guest's telemetry at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is doing.
    pub phase: Phase,
    /// Frequency of its TSC in kHz.
    pub tsc_khz: u64,
    /// TSC at boot.
    pub boot_tsc: u64,
    /// TSC when it became ready; 0 before.
    pub ready_tsc: u64,
    /// Pages under the oracle.
    pub owned_pages: u64,
    /// Pages filled, of those.
    pub filled_pages: u64,
    /// Pages of the working set, of those.
    pub working_set_pages: u64,
    /// Seed of its content.
    pub seed: u64,
    /// Kind of its content.
    pub fill: Fill,
    /// Checks it asked itself for.
    pub own_checks: u64,
    /// Exit code, once it stopped.
    pub exit_code: Option<u8>,
    /// The exception or panic that ended it.
    pub fault: Option<Fault>,
    /// The host's last check request.
    pub check_request: u64,
    /// The host's gap epoch.
    pub gap_epoch_request: u64,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
}

/// What ended a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Exception vector; 0x1000 for a panic.
    pub vector: u64,
    /// Instruction pointer, or the panic's source line.
    pub at: u64,
    /// CR2.
    pub address: u64,
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
    /// Comparisons of its vector registers.
    pub register_checks: u64,
    /// Of those, how many found a difference.
    pub register_errors: u64,
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

/// Results of the last check all vCPUs finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckResult {
    /// Number of the host's request.
    pub request: u64,
    /// Pages verified.
    pub pages: u64,
    /// Errors found.
    pub errors: u64,
    /// TSC ticks the slowest vCPU took.
    pub ticks: u64,
}

impl Snapshot {
    /// Decodes the bytes at [`crate::TELEMETRY_ADDRESS`].
    ///
    /// # Errors
    /// If they are no telemetry of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        if bytes.len() < TELEMETRY_BYTES {
            return Err(SnapshotError::Truncated { bytes: bytes.len() });
        }
        let header = Words { bytes, base: offset_of!(Telemetry, header) };
        let requests = Words { bytes, base: offset_of!(Telemetry, requests) };
        if header.at(offset_of!(Header, magic)) != MAGIC {
            return Err(SnapshotError::NotStarted);
        }
        let version = header.at(offset_of!(Header, version));
        if version != VERSION {
            return Err(SnapshotError::Version { found: version });
        }
        let vcpus = header.at(offset_of!(Header, vcpus));
        if vcpus == 0 || vcpus > MAX_VCPUS as u64 {
            return Err(SnapshotError::BadWord { name: "vCPU count", value: vcpus });
        }
        let fill = header.at(offset_of!(Header, fill));
        let vector = header.at(offset_of!(Header, fault_vector));
        Ok(Self {
            phase: phase(header.at(offset_of!(Header, phase)))?,
            tsc_khz: header.at(offset_of!(Header, tsc_khz)).max(1),
            boot_tsc: header.at(offset_of!(Header, boot_tsc)),
            ready_tsc: header.at(offset_of!(Header, ready_tsc)),
            owned_pages: header.at(offset_of!(Header, owned_pages)),
            filled_pages: header.at(offset_of!(Header, filled_pages)),
            working_set_pages: header.at(offset_of!(Header, working_set_pages)),
            seed: header.at(offset_of!(Header, seed)),
            fill: Fill::from_word(fill).ok_or(SnapshotError::BadWord { name: "fill", value: fill })?,
            own_checks: header.at(offset_of!(Header, own_checks)),
            exit_code: header.at(offset_of!(Header, stopped)).checked_sub(1).map(|code| code as u8),
            fault: vector.checked_sub(1).map(|vector| Fault {
                vector,
                at: header.at(offset_of!(Header, fault_at)),
                address: header.at(offset_of!(Header, fault_address)),
            }),
            check_request: requests.at(offset_of!(Requests, check)),
            gap_epoch_request: requests.at(offset_of!(Requests, gap_epoch)),
            vcpus: (0..vcpus as usize).map(|number| Vcpu::parse(bytes, number)).collect::<Result<_, _>>()?,
        })
    }

    /// Whether boot and fill are over, and the guest runs.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase.is_ready()
    }

    /// Steps of all vCPUs: it grows while the guest runs.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.sum(|vcpu| vcpu.heartbeat)
    }

    /// Pages written by all vCPUs.
    #[must_use]
    pub fn pages_written(&self) -> u64 {
        self.sum(|vcpu| vcpu.pages_written)
    }

    /// All errors the guest ever found: pages, its tables, its image, and vector registers.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.sum(|vcpu| vcpu.errors + vcpu.register_errors)
    }

    /// The first errors of all vCPUs, named.
    pub fn named_errors(&self) -> impl Iterator<Item = &Mismatch> {
        self.vcpus.iter().flat_map(|vcpu| &vcpu.named_errors)
    }

    /// The result of the host's check `request` (or a later one), once all vCPUs have finished it.
    #[must_use]
    pub fn check_result(&self, request: u64) -> Option<CheckResult> {
        let done = self.vcpus.iter().map(|vcpu| vcpu.check_done).min()?;
        (done >= request).then(|| CheckResult {
            request: done,
            pages: self.sum(|vcpu| vcpu.check_pages),
            errors: self.sum(|vcpu| vcpu.check_errors),
            ticks: self.vcpus.iter().map(|vcpu| vcpu.check_ticks).max().unwrap_or(0),
        })
    }

    /// The longest gap of any vCPU that ended at or after `tsc`, and the vCPU's number.
    ///
    /// Sure for the current gap epoch; from before it, only recent gaps are known.
    #[must_use]
    pub fn longest_gap_since(&self, tsc: u64) -> Option<(usize, Gap)> {
        self.vcpus
            .iter()
            .flat_map(|vcpu| vcpu.longest_gaps.iter().chain(&vcpu.recent_gaps).map(|gap| (vcpu.number, *gap)))
            .filter(|(_, gap)| gap.end_tsc() >= tsc)
            .max_by_key(|(_, gap)| gap.ticks)
    }

    /// Whether all vCPUs have begun the host's gap epoch.
    #[must_use]
    pub fn in_gap_epoch(&self, epoch: u64) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.gap_epoch == epoch)
    }

    /// TSC ticks as time.
    #[must_use]
    pub fn duration(&self, ticks: u64) -> core::time::Duration {
        let nanoseconds = u128::from(ticks) * 1_000_000 / u128::from(self.tsc_khz);
        core::time::Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn sum(&self, word: impl Fn(&Vcpu) -> u64) -> u64 {
        self.vcpus.iter().fold(0, |sum, vcpu| sum.wrapping_add(word(vcpu)))
    }
}

impl Vcpu {
    fn parse(bytes: &[u8], number: usize) -> Result<Self, SnapshotError> {
        let part = Words { bytes, base: offset_of!(Telemetry, vcpus) + number * size_of::<VcpuPart>() };
        let gaps = part.at(offset_of!(VcpuPart, gaps));
        let mut longest_gaps = part.gaps(offset_of!(VcpuPart, longest_gaps), crate::layout::LONGEST_GAPS);
        longest_gaps.sort_by_key(|gap| core::cmp::Reverse(gap.ticks));
        let mut recent_gaps = part.gaps(offset_of!(VcpuPart, recent_gaps), crate::layout::RECENT_GAPS);
        recent_gaps.sort_by_key(|gap| gap.start_tsc);
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
            register_checks: part.at(offset_of!(VcpuPart, register_checks)),
            register_errors: part.at(offset_of!(VcpuPart, register_errors)),
            register_bytes: part.at(offset_of!(VcpuPart, register_bytes)),
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

fn phase(word: u64) -> Result<Phase, SnapshotError> {
    Phase::from_word(word).ok_or(SnapshotError::BadWord { name: "phase", value: word })
}

/// The words of one page of telemetry. Offsets come from the layout, and the length was checked: indexing cannot fail.
struct Words<'a> {
    bytes: &'a [u8],
    base: usize,
}

impl Words<'_> {
    fn at(&self, offset: usize) -> u64 {
        let (words, _) = self.bytes[self.base + offset..].as_chunks::<8>();
        u64::from_le_bytes(words[0])
    }

    fn gaps(&self, offset: usize, count: usize) -> Vec<Gap> {
        (0..count)
            .map(|i| offset + i * size_of::<GapRecord>())
            .filter_map(|record| GapRecord::decode(core::array::from_fn(|word| self.at(record + word * 8))))
            .collect()
    }

    fn errors(&self) -> Vec<Mismatch> {
        let records = offset_of!(VcpuPart, named_errors);
        (0..crate::layout::NAMED_ERRORS)
            .map(|i| records + i * size_of::<ErrorRecord>())
            .filter_map(|record| {
                let words = core::array::from_fn(|word| self.at(record + word * 8));
                ErrorRecord::decode(&words, self.at(record + offset_of!(ErrorRecord, seal)))
            })
            .collect()
    }
}
