//! The guest, as its network services see it: they read its counters, and touch its working set.

use core::sync::atomic::Ordering::Relaxed;

use guest_service::{Guest as Served, Status};
use telemetry::layout::VcpuPart;
use telemetry::oracle::Writer;

use crate::cpu::rdtsc;
use crate::guest::{self, Guest};

/// Which page of the working set is touched next: far from the last, and each once before any comes again.
pub struct Walk {
    next: u64,
    stride: u64,
}

impl Walk {
    /// A walk over so many pages.
    pub fn over(pages: u64) -> Self {
        // About the golden section, and without a divisor in common with the number of pages.
        let from = pages - pages * 382 / 1000;
        let stride = (1..=from.max(1)).rev().find(|stride| gcd(pages, *stride) == 1).unwrap_or(1);
        Self { next: 0, stride }
    }

    fn step(&mut self, pages: u64) -> u64 {
        self.next = (self.next + self.stride) % pages;
        self.next
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// vCPU 0's part of the guest.
pub struct Hands<'a, 'w> {
    /// The guest.
    pub guest: &'a Guest,
    /// vCPU 0's telemetry.
    pub part: &'a VcpuPart,
    /// Its writer: its slice of the working set is what may be touched, since nobody writes to it meanwhile.
    pub writer: &'a Writer<'w>,
    /// Where in the slice.
    pub walk: &'a mut Walk,
}

impl Served for Hands<'_, '_> {
    fn status(&self) -> Status {
        let telemetry = guest::telemetry();
        let parts = &telemetry.vcpus[..self.guest.line.vcpus as usize];
        let sum = |word: fn(&VcpuPart) -> u64| parts.iter().map(word).sum();
        let ticks = rdtsc().saturating_sub(telemetry.header.ready_tsc.load(Relaxed));
        Status {
            uptime_us: (u128::from(ticks) * 1_000 / u128::from(self.guest.tsc_khz)) as u64,
            heartbeat: sum(|part| part.heartbeat.load(Relaxed)),
            vcpus: self.guest.line.vcpus,
            pages_written: sum(|part| part.pages_written.load(Relaxed)),
            working_set_pages: self.guest.working_set.len(),
            errors: sum(|part| part.errors.load(Relaxed) + part.register_errors.load(Relaxed)),
        }
    }

    fn touch(&mut self) -> bool {
        let slice = self.writer.slice();
        if slice.is_empty() {
            return true;
        }
        let verified = self.writer.verify(slice.start + self.walk.step(slice.len()));
        if let Err(mismatch) = &verified {
            self.part.note_error(mismatch);
        }
        verified.is_ok()
    }

    fn working_set_pages(&self) -> u64 {
        self.writer.slice().len()
    }
}
