//! What a guest says of itself, as JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tsc_now;
use engine::{pages::PAGE_SIZE, sim::SimGuest};

#[cfg(feature = "kvm")]
pub(super) use of_pulse::{check, read, report};

/// A guest's telemetry at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestReport {
    /// The guest reports; everything else is empty otherwise.
    pub available: bool,
    /// What it is doing: `booting`, `filling`, `running`, `checking`, `halted` or `failed`.
    pub phase: Option<String>,
    /// It has booted, filled its memory, and runs.
    pub ready: bool,
    /// Frequency of its time-stamp counter.
    pub tsc_khz: u64,
    /// Steps of its loop.
    pub heartbeat: u64,
    /// Pages it wrote.
    pub pages_written: u64,
    /// Wrong pages, registers and tables that it found, ever.
    pub errors: u64,
    /// The first of them, in words.
    pub named_errors: Vec<String>,
    /// The narrowest of its vCPUs' vector registers, in bytes: 16 of SSE, 32 of AVX, 64 of AVX-512. All registers of this
    /// width carry a pattern while a vCPU spins, which it compares; 0 if none do.
    pub vector_register_bytes: u64,
    /// Checks of all memory that the host asked for.
    pub checks_requested: u64,
    /// Of those, the last that all vCPUs have finished.
    pub checks_done: u64,
    /// The longest time between two steps of a vCPU; with `since_tsc`, of those that ended after it.
    pub longest_gap_us: u64,
    /// Recent and longest gaps, by their start.
    pub gaps: Vec<GapReport>,
    /// How many gaps lasted 2^i to 2^(i+1) ticks of the time-stamp counter, over all vCPUs.
    pub gap_histogram: Vec<u64>,
    /// The host's time-stamp counter when this was answered.
    pub tsc_now: u64,
}

/// One gap between two steps of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GapReport {
    /// The vCPU.
    pub vcpu: usize,
    /// Time-stamp counter at its beginning.
    pub start_tsc: u64,
    /// Its length in ticks of that counter.
    pub ticks: u64,
    /// Its length.
    pub duration_us: u64,
    /// What the vCPU was doing.
    pub activity: String,
}

/// What a check of all the guest's memory found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// Pages looked at.
    pub pages_checked: u64,
    /// Pages that did not hold what they should, and wrong registers, ever found.
    pub errors: u64,
    /// The first of them, in words.
    pub named_errors: Vec<String>,
}

/// Why a guest could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum UnavailableGuest {
    /// It has not come so far, or is no guest that reports.
    #[error(
        "the guest reports nothing: it is still booting, or not one of Ferry's own (try `ferry run pulse`)"
    )]
    NotStarted,
    /// It reports something Ferry does not understand.
    #[cfg(feature = "kvm")]
    #[error("the guest's telemetry cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has not answered.
    #[error("the guest did not finish its check within {seconds} s; look at `ferry info`")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
    },
}

impl GuestReport {
    /// Of a guest that reports nothing.
    pub fn unavailable() -> GuestReport {
        GuestReport { tsc_now: tsc_now(), ..GuestReport::default() }
    }
}

/// It remembers only its longest gap, and not when that was: `_since_tsc` changes nothing.
pub(super) fn of_simulated(guest: &SimGuest, _since_tsc: u64) -> GuestReport {
    GuestReport {
        available: true,
        phase: Some("running".to_owned()),
        ready: true,
        heartbeat: guest.steps,
        pages_written: guest.steps,
        errors: guest.errors,
        named_errors: named(guest),
        longest_gap_us: guest.longest_gap_ns / 1000,
        ..GuestReport::unavailable()
    }
}

pub(super) fn check_of_simulated(guest: &SimGuest, page_count: u64) -> CheckReport {
    CheckReport { pages_checked: page_count, errors: guest.errors, named_errors: named(guest) }
}

fn named(guest: &SimGuest) -> Vec<String> {
    let words = |page| {
        format!("page {page:#x} (byte {:#x}) does not hold what was last written", page * PAGE_SIZE as u64)
    };
    guest.first_error.map(words).into_iter().collect()
}

/// The built-in guest, which keeps its telemetry in memory.
#[cfg(feature = "kvm")]
mod of_pulse {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use ::telemetry::{
        CHECK_REQUEST_ADDRESS, Phase, Snapshot, SnapshotError, TELEMETRY_ADDRESS, TELEMETRY_BYTES,
    };
    use vmm::GuestMemory;

    use super::{CheckReport, GapReport, GuestReport, UnavailableGuest};

    /// How long a check of all memory may take: tens of seconds for the largest guests.
    const CHECK_PATIENCE: Duration = Duration::from_secs(120);
    /// How often its end is looked for; the guest looks for a request about as often.
    const CHECK_TICK: Duration = Duration::from_millis(5);

    pub fn read(memory: &GuestMemory) -> Result<Snapshot, UnavailableGuest> {
        let mut bytes = vec![0; TELEMETRY_BYTES];
        let unreadable = |error| UnavailableGuest::Unreadable(error);
        memory.read(TELEMETRY_ADDRESS, &mut bytes).map_err(|error| unreadable(error.into()))?;
        Snapshot::parse(&bytes).map_err(|error| match error {
            SnapshotError::NotStarted => UnavailableGuest::NotStarted,
            other => unreadable(other.to_string().into()),
        })
    }

    pub fn report(snapshot: &Snapshot, since_tsc: u64) -> GuestReport {
        let mut gap_histogram = Vec::new();
        let mut gaps = Vec::new();
        for vcpu in &snapshot.vcpus {
            gap_histogram.resize(vcpu.gap_histogram.len(), 0);
            gap_histogram.iter_mut().zip(vcpu.gap_histogram).for_each(|(sum, count)| *sum += count);
            gaps.extend(vcpu.recent_gaps.iter().chain(&vcpu.longest_gaps).map(|gap| GapReport {
                vcpu: vcpu.number,
                start_tsc: gap.start_tsc,
                ticks: gap.ticks,
                duration_us: snapshot.duration(gap.ticks).as_micros() as u64,
                activity: format!("{:?}", gap.activity).to_lowercase(),
            }));
        }
        // A long gap that is also recent is there twice.
        gaps.sort_by_key(|gap| (gap.start_tsc, gap.vcpu));
        gaps.dedup();
        let longest = snapshot.longest_gap_since(since_tsc);
        GuestReport {
            available: true,
            phase: Some(phase_name(snapshot.phase).to_owned()),
            ready: snapshot.is_ready(),
            tsc_khz: snapshot.tsc_khz,
            heartbeat: snapshot.heartbeat(),
            pages_written: snapshot.pages_written(),
            errors: snapshot.errors(),
            named_errors: named(snapshot),
            vector_register_bytes: snapshot.vcpus.iter().map(|vcpu| vcpu.register_bytes).min().unwrap_or(0),
            checks_requested: snapshot.check_request,
            checks_done: snapshot.vcpus.iter().map(|vcpu| vcpu.check_done).min().unwrap_or(0),
            longest_gap_us: longest.map_or(0, |(_, gap)| snapshot.duration(gap.ticks).as_micros() as u64),
            gaps,
            gap_histogram,
            ..GuestReport::unavailable()
        }
    }

    pub fn check(memory: &GuestMemory) -> Result<CheckReport, UnavailableGuest> {
        let request = read(memory)?.next_check_request();
        memory
            .write(CHECK_REQUEST_ADDRESS, &request.to_le_bytes())
            .map_err(|error| UnavailableGuest::Unreadable(error.into()))?;
        let begin = Instant::now();
        while begin.elapsed() < CHECK_PATIENCE {
            thread::sleep(CHECK_TICK);
            let snapshot = read(memory)?;
            if let Some(result) = snapshot.check_result(request) {
                return Ok(CheckReport {
                    pages_checked: result.pages,
                    errors: snapshot.errors(),
                    named_errors: named(&snapshot),
                });
            }
        }
        Err(UnavailableGuest::Silent { seconds: CHECK_PATIENCE.as_secs() })
    }

    fn named(snapshot: &Snapshot) -> Vec<String> {
        snapshot.named_errors().map(ToString::to_string).collect()
    }

    fn phase_name(phase: Phase) -> &'static str {
        match phase {
            Phase::Booting => "booting",
            Phase::Filling => "filling",
            Phase::Running => "running",
            Phase::Checking => "checking",
            Phase::Halted => "halted",
            Phase::Failed => "failed",
        }
    }
}
