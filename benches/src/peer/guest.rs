//! The guest's own clock and oracle, read where they lie: in the memory of QEMU's process.
//!
//! That memory stays anonymous, as Ferry's is: to map it from outside it would have to be a file in memory, which gets no
//! huge pages on most hosts and would burden QEMU alone. A page that is still missing in post-copy is not read, and
//! not asked for either: reading it fails.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use telemetry::{
    CHECK_REQUEST_ADDRESS, MAX_VCPUS, PAGE_SIZE, Snapshot, SnapshotError, TELEMETRY_ADDRESS, TELEMETRY_BYTES,
};

use crate::{gaps::Gap, interrupt};

/// How long a check of all memory may take, as with Ferry's guests.
const CHECK_PATIENCE: Duration = Duration::from_secs(120);
const CHECK_TICK: Duration = Duration::from_millis(5);
/// Header and requests come before the vCPUs' pages.
const SHARED_PAGES: usize = TELEMETRY_BYTES / PAGE_SIZE - MAX_VCPUS;

/// A guest's telemetry in the memory of a process of ours.
#[derive(Debug)]
pub struct GuestView {
    process: File,
    /// Where the process has the telemetry pages.
    address: u64,
    /// How much of them the guest has: what other vCPUs would have is never touched.
    bytes: usize,
}

impl GuestView {
    /// Of a process that has the guest-physical [`TELEMETRY_ADDRESS`] at `address`.
    ///
    /// # Errors
    /// If the host does not let one of our own processes be looked into.
    pub fn open(pid: u32, address: u64, vcpus: u8) -> Result<GuestView> {
        let path = format!("/proc/{pid}/mem");
        let process = File::options().read(true).write(true).open(&path).with_context(|| {
            format!("open {path}, to read the guest's clock (kernel.yama.ptrace_scope must be 0 or 1)")
        })?;
        Ok(GuestView { process, address, bytes: (SHARED_PAGES + usize::from(vcpus)) * PAGE_SIZE })
    }

    /// What the guest says; nothing before it has booted, and in post-copy while the pages are missing.
    ///
    /// # Errors
    /// If it says what this harness does not understand.
    pub fn look(&self) -> Result<Option<Snapshot>> {
        let mut bytes = vec![0; TELEMETRY_BYTES];
        match self.process.read_exact_at(&mut bytes[..self.bytes], self.address) {
            Ok(()) => {}
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error).context("read the guest's telemetry"),
        }
        match Snapshot::parse(&bytes) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(SnapshotError::NotStarted) => Ok(None),
            Err(error) => Err(error).context("the guest's telemetry"),
        }
    }

    /// Has the guest look at all its memory, and says what it says then.
    ///
    /// # Errors
    /// If it does not come to an end of it.
    pub fn check(&self) -> Result<Snapshot> {
        let request = self.look()?.context("the guest says nothing")?.next_check_request();
        let at = self.address + (CHECK_REQUEST_ADDRESS - TELEMETRY_ADDRESS);
        self.process.write_all_at(&request.to_le_bytes(), at).context("ask the guest for a check")?;
        let deadline = Instant::now() + CHECK_PATIENCE;
        while Instant::now() < deadline {
            interrupt::check()?;
            thread::sleep(CHECK_TICK);
            if let Some(snapshot) = self.look()?.filter(|guest| guest.check_result(request).is_some()) {
                return Ok(snapshot);
            }
        }
        bail!("the guest did not finish its check within {} s", CHECK_PATIENCE.as_secs())
    }
}

/// The kernel cannot wait here for a page that another process will bring.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT))
}

/// The guest's gaps, as a control socket of Ferry's would tell them.
pub fn gaps(guest: &Snapshot) -> Vec<Gap> {
    let of_vcpu = |vcpu: &telemetry::snapshot::Vcpu| {
        let number = vcpu.number as u32;
        let gaps = vcpu.recent_gaps.iter().chain(&vcpu.longest_gaps).map(move |gap| Gap {
            vcpu: number,
            start_tsc: gap.start_tsc,
            ticks: gap.ticks,
            duration_us: guest.duration(gap.ticks).as_micros() as u64,
            activity: format!("{:?}", gap.activity),
        });
        gaps.collect::<Vec<_>>()
    };
    guest.vcpus.iter().flat_map(of_vcpu).collect()
}

/// What the guest found wrong, in words: pages first, then registers.
pub fn named_errors(guest: &Snapshot) -> Vec<String> {
    let registers = guest.vcpus.iter().filter_map(|vcpu| {
        let error = vcpu.register_error.as_ref()?;
        Some(format!(
            "vCPU {}: vector register {} holds another pattern than was loaded (64-bit word {}: {:#x} instead of {:#x}), {} \
             comparisons of {} failed",
            vcpu.number,
            error.register,
            error.word,
            error.found,
            error.expected,
            vcpu.register_errors,
            vcpu.register_checks
        ))
    });
    guest.named_errors().map(ToString::to_string).chain(registers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of this process, as if a guest's telemetry were in them.
    #[test]
    fn a_process_of_ours_can_be_looked_into() {
        let pages = vec![0u64; TELEMETRY_BYTES / 8];
        let view = match GuestView::open(std::process::id(), pages.as_ptr() as u64, 2) {
            Ok(view) => view,
            Err(error) => return println!("skipped: a_process_of_ours_can_be_looked_into: {error:#}"),
        };
        assert!(view.look().unwrap().is_none(), "no guest has started");
        assert_eq!(view.bytes, 4 * PAGE_SIZE);

        let mut words = pages;
        words[0] = telemetry::layout::MAGIC;
        words[1] = telemetry::layout::VERSION + 1;
        let view = GuestView::open(std::process::id(), words.as_ptr() as u64, 1).unwrap();
        assert!(view.look().is_err(), "of another version");
        let nowhere = GuestView::open(std::process::id(), 4096, 1).unwrap();
        assert!(nowhere.look().unwrap().is_none());
    }
}
