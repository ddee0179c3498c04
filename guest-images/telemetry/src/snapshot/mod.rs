//! The host's view of a guest: the telemetry pages, decoded.
//!
//! The bytes may be read while the guest runs: words are whole, records that were being written are left out, and
//! counters of different words may be some steps apart.

use std::vec::Vec;

use core::mem::offset_of;

use crate::gaps::Gap;
use crate::layout::{
    Header, MAGIC, MAX_VCPUS, NetworkPart, Phase, Requests, TELEMETRY_BYTES, Telemetry, VERSION,
};
use crate::network::NetworkCounters;
use crate::oracle::{Fill, Mismatch};
use words::Words;

mod error;
#[cfg(test)]
mod tests;
mod vcpu;
mod words;

pub use error::SnapshotError;
pub use vcpu::{RegisterError, Vcpu};

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
    /// What its network service did.
    pub network: NetworkCounters,
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
            network: network(&header),
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
        self.sum(|vcpu| vcpu.errors.wrapping_add(vcpu.register_errors))
    }

    /// The first errors of all vCPUs, named.
    pub fn named_errors(&self) -> impl Iterator<Item = &Mismatch> {
        self.vcpus.iter().flat_map(|vcpu| &vcpu.named_errors)
    }

    /// What to write to [`crate::CHECK_REQUEST_ADDRESS`] to ask for a check: one more than the last request, whoever
    /// made it. After a migration the destination goes on where the source's host stopped.
    #[must_use]
    pub const fn next_check_request(&self) -> u64 {
        self.check_request.wrapping_add(1)
    }

    /// What to write to [`crate::GAP_EPOCH_ADDRESS`] to begin a gap epoch.
    #[must_use]
    pub const fn next_gap_epoch(&self) -> u64 {
        self.gap_epoch_request.wrapping_add(1)
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

fn phase(word: u64) -> Result<Phase, SnapshotError> {
    Phase::from_word(word).ok_or(SnapshotError::BadWord { name: "phase", value: word })
}

/// What the network service counted, out of the header's words.
fn network(header: &Words<'_>) -> NetworkCounters {
    let word = |offset| header.at(offset_of!(Header, network) + offset);
    NetworkCounters {
        frames_in: word(offset_of!(NetworkPart, frames_in)),
        frames_out: word(offset_of!(NetworkPart, frames_out)),
        connections: word(offset_of!(NetworkPart, connections)),
        requests: word(offset_of!(NetworkPart, requests)),
        datagrams: word(offset_of!(NetworkPart, datagrams)),
        errors: word(offset_of!(NetworkPart, errors)),
    }
}
