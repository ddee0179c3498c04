//! vCPU 0's chores: the console, the guest's phase, checks the guest makes unasked, and the end.

use core::fmt::Arguments;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use telemetry::Phase;
use telemetry::layout::{ErrorRecord, Header, VcpuPart};

use crate::console::{Command, Console};
use crate::guest::{self, Guest};
use crate::{failure, tsc};

/// State of the chores.
pub struct Housekeeping {
    console: Console,
    /// Own checks whose result has been printed.
    reported: u64,
    /// Whether a user waits for the result.
    asked: bool,
    errors: u64,
    next_own_check: u64,
}

impl Housekeeping {
    /// Chores at boot.
    pub const fn new() -> Self {
        Self { console: Console::new(), reported: 0, asked: false, errors: 0, next_own_check: 0 }
    }

    /// The line that says that the guest is ready.
    pub fn announce(&mut self, guest: &Guest, header: &Header) {
        let ticks = header.ready_tsc.load(Relaxed) - header.boot_tsc.load(Relaxed);
        self.console.say(format_args!("pulse: ready after {} ms\r\n", ticks / guest.tsc_khz));
    }

    /// A line of news for whoever reads the console.
    pub fn say(&mut self, news: Arguments<'_>) {
        self.console.say(format_args!("pulse: {news}\r\n"));
    }

    /// One byte of output, if there is any.
    pub fn talk(&mut self) -> bool {
        let talks = self.console.has_output();
        if talks {
            self.console.send_one();
        }
        talks
    }

    /// Once a millisecond.
    pub fn poll(&mut self, guest: &Guest, now: u64) {
        let telemetry = guest::telemetry();
        let header = &telemetry.header;
        let parts = &telemetry.vcpus[..guest.line.vcpus as usize];
        failure::report_others();
        watch_clock(&parts[0]);
        match telemetry.requests.stop.load(Relaxed) {
            0 => {}
            code => self.stop((code - 1) as u8),
        }
        match self.console.poll(now, guest.tsc_khz) {
            None => {}
            Some(Command::Stop(code)) => self.stop(code),
            Some(Command::Status) => self.status(guest, now, header, parts),
            Some(Command::Check) => {
                self.asked = true;
                header.own_checks.store(header.own_checks.load(Relaxed) + 1, SeqCst);
            }
        }
        if guest.line.check_seconds > 0 && now >= self.next_own_check {
            if self.next_own_check != 0 {
                header.own_checks.store(header.own_checks.load(Relaxed) + 1, SeqCst);
            }
            self.next_own_check = now + guest.line.check_seconds * guest.tsc_khz * 1_000;
        }
        let checking = parts.iter().any(|part| part.phase.load(Relaxed) == Phase::Checking as u64);
        let phase = if checking { Phase::Checking } else { Phase::Running };
        if header.phase.load(Relaxed) != phase as u64 {
            header.phase.store(phase as u64, SeqCst);
        }
        self.report(guest, header, parts);
    }

    /// Says what is still to be said, and stops.
    fn stop(&mut self, code: u8) -> ! {
        self.console.flush();
        failure::stop(code)
    }

    /// Prints the result of a check a user asked for, and any check's that found something.
    fn report(&mut self, guest: &Guest, header: &Header, parts: &[VcpuPart]) {
        let requested = header.own_checks.load(Relaxed);
        // A check is finished when all vCPUs have finished the same ones.
        let host_check = parts[0].check_done.load(SeqCst);
        let finished = parts.iter().all(|part| {
            part.own_check_done.load(SeqCst) == requested && part.check_done.load(SeqCst) == host_check
        });
        let errors = sum(parts, |part| part.errors.load(Relaxed));
        if !finished || (requested == self.reported && errors == self.errors) {
            return;
        }
        if core::mem::take(&mut self.asked) || errors != self.errors {
            let ticks = parts.iter().map(|part| part.check_ticks.load(Relaxed)).max().unwrap_or(0);
            self.console.say(format_args!(
                "check: {} pages, {} errors, {} ms\r\n",
                sum(parts, |part| part.check_pages.load(Relaxed)),
                sum(parts, |part| part.check_errors.load(Relaxed)),
                ticks / guest.tsc_khz
            ));
        }
        if errors != self.errors {
            for mismatch in parts.iter().flat_map(|part| &part.named_errors).filter_map(ErrorRecord::load) {
                self.console.say(format_args!("  {mismatch}\r\n"));
            }
        }
        self.reported = requested;
        self.errors = errors;
    }

    fn status(&mut self, guest: &Guest, now: u64, header: &Header, parts: &[VcpuPart]) {
        let up = now.saturating_sub(header.ready_tsc.load(Relaxed)) / guest.tsc_khz;
        let gaps =
            parts.iter().flat_map(|part| &part.longest_gaps).filter_map(telemetry::gaps::GapRecord::load);
        let longest = gaps.map(|gap| gap.ticks).max().unwrap_or(0);
        self.console.say(format_args!("up {}.{:03} s, {} pages written, {} checked, {} errors, {} register errors, longest gap {} us\r\n",
            up / 1_000,
            up % 1_000,
            sum(parts, |part| part.pages_written.load(Relaxed)),
            sum(parts, |part| part.pages_checked.load(Relaxed)),
            sum(parts, |part| part.errors.load(Relaxed)),
            sum(parts, |part| part.register_errors.load(Relaxed)),
            longest * 1_000 / guest.tsc_khz
        ));
        for part in parts.iter().filter(|part| part.register_errors.load(Relaxed) > 0) {
            let word = part.register_error_word.load(Relaxed);
            let words = part.register_bytes.load(Relaxed) / 8;
            self.console.say(format_args!(
                "  vector register {} word {}: {:#x}, expected {:#x}\r\n",
                word / words,
                word % words,
                part.register_error_found.load(Relaxed),
                part.register_error_expected.load(Relaxed)
            ));
        }
    }
}

/// A migration must neither turn the guest's clock back nor lose it.
fn watch_clock(part: &VcpuPart) {
    if let Some(clock) = tsc::clock_ns() {
        if clock < part.clock_ns.load(Relaxed) {
            part.clock_backwards.store(part.clock_backwards.load(Relaxed) + 1, Relaxed);
        }
        part.clock_ns.store(clock, Relaxed);
    }
}

fn sum(parts: &[VcpuPart], word: impl Fn(&VcpuPart) -> u64) -> u64 {
    parts.iter().map(word).sum()
}
