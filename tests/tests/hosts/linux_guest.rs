//! A Linux guest on the bed, and what its client holds.

use engine::report::Report;
use testbed::{Bed, Host};

use crate::by_hand::{any, moved_with, ok};

const ADDRESS: &str = "10.77.0.50";
const DISK: &str = "/dev/vda";

/// By how much a move may put a guest's wall clock off, in nanoseconds.
const CLOCK_ERROR: i64 = 100_000_000;

/// Words that a kernel says of a processor or a clock that it does not trust any more.
const COMPLAINTS: [&str; 9] = [
    "unstable",
    "timekeeping watchdog",
    "soft lockup",
    "hard LOCKUP",
    "rcu: INFO",
    "stall",
    "cut here",
    "Call Trace",
    "I/O error",
];

/// What Linux says at boot, so before any move, of every AMD machine that has several processors and no
/// invariant TSC (`unsynchronized_tsc` in arch/x86/kernel/tsc.c); emulated ones have none. Said later it
/// counts: then nothing may be said.
const WITHOUT_INVARIANT_TSC: &str = "tsc: Marking TSC unstable due to TSCs unsynchronized";

/// By how much the guest's two clocks may part between two looks of its kernel at them, in nanoseconds:
/// Linux's own margin.
const CLOCK_MARGIN: u64 = 250_000;

/// Whether a kernel says here that it looked at its clocks late, and that they agree. It does so when it
/// could not run for a second: where another program has the emulating processor, or where the pages it needs
/// are on their way.
///
/// It does so without a move as well, if its host stands still: when the emulator of one that had not moved was
/// stopped for 2.5 s it said so, and its clocks agreed within 99 ns. It said nothing in two runs of a minute each
/// without a move and without such a stop, on a machine with a load of 4 to 5 on 2 processors: there the longest
/// that a guest's loop of a tenth of a second took was 0.3 s.
fn only_looked_late(line: &str) -> bool {
    let late = "clocksource: Long readout interval, skipping watchdog check: cs_nsec: ";
    let Some((_, numbers)) = line.split_once(late) else {
        return false;
    };
    let Some((clock, watchdog)) = numbers.split_once(" wd_nsec: ") else { return false };
    let (clock, watchdog) = (clock.trim().parse::<u64>(), watchdog.trim().parse::<u64>());
    matches!((clock, watchdog), (Ok(clock), Ok(watchdog)) if clock.abs_diff(watchdog) < CLOCK_MARGIN)
}

/// Whether a kernel says here that an interrupt's handler took long. It says so once, of an emulated
/// processor that did not get on meanwhile; it has been seen before any move (docs/results, with two vCPUs), and of a
/// guest that never moved, 50 s after its boot.
fn only_took_long(line: &str) -> bool {
    let time = line.split_once("] hrtimer: interrupt took ").and_then(|(_, time)| time.strip_suffix(" ns"));
    time.is_some_and(|time| time.parse::<u64>().is_ok())
}

/// A guest that runs, with its memory, clock, disk, console and connections under watch.
pub struct Guest<'a> {
    bed: &'a Bed,
    lines_seen: u64,
    offset_at_boot: (i64, i64),
    /// What its kernel had said when it had booted.
    words_at_boot: String,
}

impl<'a> Guest<'a> {
    /// Boots one on host 1 with a disk that both hosts see, and has the client hold a connection to it.
    pub fn boot(bed: &'a Bed, vcpus: u8) -> Guest<'a> {
        ok(bed.host(0), &format!("mke2fs {DISK}"));
        // Host 2 has read the disk as it is now, and keeps what it has read: none of it may be believed
        // later.
        ok(bed.host(1), &format!("(exec sleep 100000) <{DISK} >/dev/null 2>&1 & cat {DISK} >/dev/null"));
        let words = format!("net={ADDRESS}/24 working-set=4MiB rate=200");
        // Either kind of console, without running everything twice.
        let console = if vcpus == 1 { "serial" } else { "virtio" };
        let machine =
            format!("{} --memory 128MiB --vcpus {vcpus} --console {console} --balloon", Self::devices());
        ok(bed.host(0), &format!("ferry run linux {words} {machine} --detach"));
        let mut tries = 0;
        while any(bed.client(), &format!("timeout 5 wget -q -O - http://{ADDRESS}/")).status != 0 {
            tries += 1;
            let console = || any(bed.host(0), "(sleep 2) | timeout 5 ferry console linux").text();
            assert!(tries < 60, "the guest does not come up:\n{}", console());
        }
        ok(bed.client(), &format!("wget -q -O /tmp/ticks http://{ADDRESS}/cgi-bin/ticks >/dev/null 2>&1 &"));
        let words_at_boot = String::new();
        let mut guest = Guest { bed, lines_seen: 0, offset_at_boot: (0, 0), words_at_boot };
        guest.offset_at_boot = guest.clock_offset();
        guest.expect_well(bed.host(0), "after boot");
        guest.words_at_boot = guest.ask("dmesg");
        guest
    }

    /// What a host must have for it.
    fn devices() -> String {
        format!("--net tap=tap0 --disk path={DISK}")
    }

    fn ask(&self, what: &str) -> String {
        ok(self.bed.client(), &format!("timeout 60 wget -q -O - http://{ADDRESS}/cgi-bin/{what}"))
    }

    /// Moves it, and looks whether it is well.
    pub fn moves(&mut self, from: &Host, to: &Host, strategy: &str) -> Report {
        let report = moved_with("linux", from, to, strategy, &Self::devices());
        self.expect_well(to, &format!("after {strategy} to {}", to.name()));
        report
    }

    /// Memory, clocks, disk, held connection and console are as they must be.
    pub fn expect_well(&mut self, at: &Host, context: &str) {
        let check = self.ask("check");
        assert!(check.contains(" 0 errors, clock went back 0 times"), "{context}: {check}");
        self.expect_right_time(context);
        self.expect_held_connection(context);
        let disk = self.ask("disk");
        assert!(disk.contains(" bytes on the disk, 0 differ"), "{context}: {disk}");
        self.expect_console(at, context);
    }

    /// What is typed at its console is answered.
    fn expect_console(&self, at: &Host, context: &str) {
        let mut typed = String::new();
        // An emulated processor that others use takes its time. The console stays attached until it is ended.
        for seconds in [10, 20, 60] {
            let console =
                format!("(echo 'echo $((6 * 7))'x; sleep {seconds}) | timeout {seconds} ferry console linux");
            typed = any(at, &console).text();
            if typed.contains("42x") {
                return;
            }
        }
        panic!("{context}: the console says {typed:?}");
    }

    /// By how much the guest's wall clock is before the client's: not less than the first, not more than the
    /// second.
    fn clock_offset(&self) -> (i64, i64) {
        let request =
            format!("nanoseconds; timeout 60 wget -q -O - http://{ADDRESS}/cgi-bin/clock; nanoseconds");
        let answer = ok(self.bed.client(), &request);
        let numbers: Vec<i64> = answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [before, guest, _, after] = numbers[..] else { panic!("no clocks: {answer}") };
        (guest - after, guest - before)
    }

    /// The guest's clock is as far from the client's as it was when the guest had booted. (How far that is
    /// depends on the timer ticks that an emulated processor lost while it booted.)
    fn expect_right_time(&self, context: &str) {
        let (least, most) = self.clock_offset();
        let (least_at_boot, most_at_boot) = self.offset_at_boot;
        let is_right = least - CLOCK_ERROR <= most_at_boot && least_at_boot <= most + CLOCK_ERROR;
        assert!(
            is_right,
            "{context}: the guest's clock is {least} to {most} ns before the client's, at boot it was \
             {least_at_boot} to {most_at_boot}"
        );
    }

    /// The connection that was opened first still brings lines, and none was lost or came twice.
    fn expect_held_connection(&mut self, context: &str) {
        let mut tries = 0;
        loop {
            let lines = ok(self.bed.client(), "cat /tmp/ticks");
            let numbers = lines.lines().filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
            for (line, number) in numbers.clone().enumerate() {
                assert_eq!(line as u64, number, "{context}: the held connection lost or repeated a line");
            }
            let count = numbers.count() as u64;
            if count > self.lines_seen {
                self.lines_seen = count;
                return;
            }
            tries += 1;
            assert!(tries < 60, "{context}: the held connection brings nothing any more");
            ok(self.bed.client(), "sleep 1");
        }
    }

    /// What its kernel has said since it booted: no complaint, and since it was up nothing at all.
    pub fn expect_no_complaint(&self, context: &str) -> String {
        let words = self.ask("dmesg");
        let trusted = |line: &&str| !line.ends_with(WITHOUT_INVARIANT_TSC);
        for line in words.lines().filter(trusted) {
            let complaint = COMPLAINTS.iter().find(|complaint| line.contains(*complaint));
            assert!(complaint.is_none(), "{context}: {line:?} in\n{words}");
        }
        let since = words.strip_prefix(self.words_at_boot.as_str());
        let since = since.unwrap_or_else(|| panic!("{context}: what it said at its boot is not in\n{words}"));
        let said: Vec<&str> = since
            .lines()
            .filter(|line| !line.is_empty() && !only_looked_late(line) && !only_took_long(line))
            .collect();
        assert!(said.is_empty(), "{context}: the kernel has something to say since it was up: {said:#?}");
        words
    }

    /// Has so much be in its balloon; nothing: only looks. Returns what is said of it then.
    pub fn balloon(&self, at: &Host, size: &str) -> String {
        ok(at, &format!("ferry balloon linux {size}"))
    }

    /// Ends it.
    pub fn stop(self, at: &Host) {
        ok(at, "ferry stop linux");
    }
}

#[test]
fn a_processor_that_stood_still_is_no_complaint_if_the_clocks_agree() {
    let line = |clock: u64| {
        let prefix = "[  102.136005] clocksource: Long readout interval, skipping watchdog check: cs_nsec: ";
        format!("{prefix}{clock} wd_nsec: 1812556275")
    };
    assert!(only_looked_late(&line(1_812_609_449)));
    assert!(!only_looked_late(&line(1_822_609_449)));
    assert!(only_took_long("[   13.395705] hrtimer: interrupt took 20675524 ns"));
    assert!(!only_took_long("[   13.395705] hrtimer: interrupt took forever"));
    assert!(!only_looked_late("[  102.1] clocksource: timekeeping watchdog on CPU0: Marking 'tsc' unstable"));
}
