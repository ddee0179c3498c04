//! One vCPU's share of a check of all memory, and its results in telemetry.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use telemetry::Phase;
use telemetry::layout::VcpuPart;
use telemetry::oracle::{CheckStep, Checker, Mismatch, Writer};

use crate::image;

/// A check under way.
pub struct Check {
    checker: Checker,
    /// vCPU 0 checks the image as well.
    image: Option<image::Checker>,
    host_request: u64,
    own_request: u64,
    pages: u64,
    errors: u64,
    start_tsc: u64,
}

impl Check {
    /// A check that answers the host's and the guest's own requests with these numbers.
    pub const fn new(
        checker: Checker,
        image: Option<image::Checker>,
        (host_request, own_request): (u64, u64),
        start_tsc: u64,
    ) -> Self {
        Self { checker, image, host_request, own_request, pages: 0, errors: 0, start_tsc }
    }

    /// Verifies one page; true when all is done.
    pub fn step(&mut self, writer: &mut Writer<'_>, part: &VcpuPart) -> bool {
        match self.checker.step(writer) {
            CheckStep::Right => self.pages += 1,
            CheckStep::Audited => {}
            CheckStep::Wrong(mismatch) => {
                self.pages += u64::from(mismatch.kind.is_of_page());
                self.found(part, &mismatch);
            }
            CheckStep::Done => match self.image.take().map(image::Checker::step) {
                Some(image::Step::Going(checker)) => self.image = Some(checker),
                Some(image::Step::Wrong(mismatch)) => self.found(part, &mismatch),
                Some(image::Step::Right) | None => return true,
            },
        }
        false
    }

    fn found(&mut self, part: &VcpuPart, mismatch: &Mismatch) {
        self.errors += 1;
        part.note_error(mismatch);
    }

    /// Writes the results to telemetry.
    pub fn publish(&self, part: &VcpuPart, now: u64) {
        part.check_pages.store(self.pages, Relaxed);
        part.check_errors.store(self.errors, Relaxed);
        part.check_ticks.store(now - self.start_tsc, Relaxed);
        part.pages_checked.store(part.pages_checked.load(Relaxed) + self.pages, Relaxed);
        part.checks.store(part.checks.load(Relaxed) + 1, Relaxed);
        part.phase.store(Phase::Running as u64, Relaxed);
        // Last: they say that the results above are of this check.
        part.own_check_done.store(self.own_request, SeqCst);
        part.check_done.store(self.host_request, SeqCst);
    }
}
