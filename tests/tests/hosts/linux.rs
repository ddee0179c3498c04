//! A Linux guest between Linux hosts: what its users see of it.

use std::{fs, path::Path};

use ferry_tests::hosts::{Bed, BedConfig, Host};

use crate::{
    bed,
    by_hand::{any, moved_with, ok, with_causes},
};

const ADDRESS: &str = "10.77.0.50";
const STRATEGIES: [&str; 3] = ["stop-and-copy", "pre-copy", "post-copy"];

/// By how much a move may put a guest's wall clock off, in nanoseconds.
const CLOCK_ERROR: i64 = 100_000_000;

/// Words that a kernel says of a processor it no longer trusts. That its TSC and kvm-clock part by some milliseconds is not
/// among them: they are carried over by readings that on an emulated processor lie that far apart.
const COMPLAINTS: [&str; 6] = ["soft lockup", "hard LOCKUP", "rcu: INFO", "stall", "cut here", "Call Trace"];

/// A Linux guest on the bed, and what its client holds.
struct Guest<'a> {
    bed: &'a Bed,
    lines_seen: u64,
    offset_at_boot: (i64, i64),
}

impl<'a> Guest<'a> {
    /// Boots one on host 1, and has the client hold a connection to it.
    fn boot(bed: &'a Bed, vcpus: u8) -> Guest<'a> {
        let words = format!("net={ADDRESS}/24 working-set=4MiB rate=200");
        let machine = format!("--net tap=tap0 --memory 128MiB --vcpus {vcpus}");
        ok(bed.host(0), &format!("ferry run linux {words} {machine} --detach"));
        let mut tries = 0;
        while any(bed.client(), &format!("timeout 5 wget -q -O - http://{ADDRESS}/")).status != 0 {
            tries += 1;
            let console = || any(bed.host(0), "(sleep 2) | timeout 5 ferry console linux").text();
            assert!(tries < 60, "the guest does not come up:\n{}", console());
        }
        ok(bed.client(), &format!("wget -q -O /tmp/ticks http://{ADDRESS}/cgi-bin/ticks >/dev/null 2>&1 &"));
        let mut guest = Guest { bed, lines_seen: 0, offset_at_boot: (0, 0) };
        guest.offset_at_boot = guest.clock_offset();
        guest.expect_well(bed.host(0), "after boot");
        guest
    }

    fn ask(&self, what: &str) -> String {
        ok(self.bed.client(), &format!("timeout 60 wget -q -O - http://{ADDRESS}/cgi-bin/{what}"))
    }

    /// Moves it, and looks whether it is well.
    fn moves(&mut self, from: &Host, to: &Host, strategy: &str) {
        moved_with("linux", from, to, strategy, "--net tap=tap0");
        self.expect_well(to, &format!("after {strategy} to {}", to.name()));
    }

    /// Memory, clock, held connection and console are as they must be.
    fn expect_well(&mut self, at: &Host, context: &str) {
        let check = self.ask("check");
        assert!(check.contains(" 0 errors, clock went back 0 times"), "{context}: {check}");
        self.expect_right_time(context);
        self.expect_held_connection(context);
        let typed = any(at, "(echo 'echo $((6 * 7))'x; sleep 3) | timeout 10 ferry console linux").text();
        assert!(typed.contains("42x"), "{context}: the console says {typed:?}");
    }

    /// By how much the guest's wall clock is before the client's: not less than the first, not more than the second.
    fn clock_offset(&self) -> (i64, i64) {
        let request =
            format!("nanoseconds; timeout 60 wget -q -O - http://{ADDRESS}/cgi-bin/clock; nanoseconds");
        let answer = ok(self.bed.client(), &request);
        let numbers: Vec<i64> = answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [before, guest, _, after] = numbers[..] else { panic!("no clocks: {answer}") };
        (guest - after, guest - before)
    }

    /// The guest's clock is as far from the client's as it was when the guest had booted. (How far that is depends on the
    /// timer ticks that an emulated processor lost while it booted.)
    fn expect_right_time(&self, context: &str) {
        let (least, most) = self.clock_offset();
        let (least_at_boot, most_at_boot) = self.offset_at_boot;
        let is_right = least - CLOCK_ERROR <= most_at_boot && least_at_boot <= most + CLOCK_ERROR;
        assert!(
            is_right,
            "{context}: the guest's clock is {least} to {most} ns before the client's, at boot it was {least_at_boot} to \
             {most_at_boot}"
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

    /// What its kernel has said since it booted, without a complaint.
    fn expect_no_complaint(&self, context: &str) -> String {
        let words = self.ask("dmesg");
        for complaint in COMPLAINTS {
            assert!(!words.contains(complaint), "{context}: {complaint:?} in\n{words}");
        }
        words
    }
}

/// Keeps what shows how it went in the folder that FERRY_RESULTS names, if it does.
fn keep(name: &str, text: &str) {
    let Some(folder) = std::env::var_os("FERRY_RESULTS") else { return };
    fs::create_dir_all(&folder).expect("the folder of FERRY_RESULTS can be made");
    fs::write(Path::new(&folder).join(name), text).expect("the folder of FERRY_RESULTS can be written to");
}

fn six_moves(bed: &Bed, vcpus: u8, context: &str) -> String {
    let mut guest = Guest::boot(bed, vcpus);
    for strategy in STRATEGIES {
        guest.moves(bed.host(0), bed.host(1), strategy);
        guest.moves(bed.host(1), bed.host(0), strategy);
    }
    let words = guest.expect_no_complaint(context);
    ok(bed.host(0), "ferry stop linux");
    words
}

#[test]
fn there_and_back_by_each_strategy() {
    let Some(bed) = bed("linux::there_and_back_by_each_strategy", &BedConfig::with_linux_guest()) else {
        return;
    };
    for vcpus in [1, 2] {
        let words = six_moves(&bed, vcpus, &format!("{vcpus} vCPUs"));
        keep(&format!("linux-{vcpus}-vcpu-dmesg-after-six-moves.txt"), &words);
    }
}

#[test]
fn over_links_that_are_slow_or_lose_frames() {
    let test = "linux::over_links_that_are_slow_or_lose_frames";
    let Some(bed) = bed(test, &BedConfig::with_linux_guest()) else { return };
    let mut guest = Guest::boot(&bed, 1);
    for link in ["delay=20ms rate=100mbit", "loss=1%"] {
        bed.link(&link.parse().expect("a link")).unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        for (from, to, strategy) in [(0, 1, "pre-copy"), (1, 0, "post-copy")] {
            guest.moves(bed.host(from), bed.host(to), strategy);
        }
    }
    guest.expect_no_complaint("over bad links");
}
