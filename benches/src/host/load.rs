//! How busy the host is with what is not ours. An overloaded host makes figures worthless.

use std::{fs, thread, time::Duration};

/// From this share of the host on, in hundredths of all its CPUs, a run is marked.
pub const OVERLOADED_PERCENT: u32 = 12;
/// And from this time on that a hypervisor took processors away: gaps of its making are as long as those that are
/// measured. It is counted in clock ticks, so less than two of them say little.
pub const OVERLOADED_STOLEN_US: u64 = 20_000;

/// Counters since boot, in clock ticks over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of them.
    total: u64,
    /// Those in which a CPU worked, for whomever.
    busy: u64,
    /// Those that a hypervisor took away.
    steal: u64,
}

/// How the host was used over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What others used, and what a hypervisor took away, in hundredths of all CPUs.
    pub others_percent: u32,
    /// The time for which a hypervisor took processors away, over all of them, in microseconds.
    pub stolen_us: u64,
}

impl Load {
    /// Whether figures that were measured under it are to be distrusted.
    pub fn is_overload(self) -> bool {
        self.others_percent >= OVERLOADED_PERCENT || self.stolen_us >= OVERLOADED_STOLEN_US
    }

    /// The heavier one.
    pub fn max(self, other: Load) -> Load {
        Load {
            others_percent: self.others_percent.max(other.others_percent),
            stolen_us: self.stolen_us.max(other.stolen_us),
        }
    }

    /// Looks for a moment, while nothing of ours runs.
    pub fn look() -> Load {
        let before = CpuTimes::now();
        thread::sleep(Duration::from_millis(150));
        before.until(CpuTimes::now(), 0)
    }
}

impl CpuTimes {
    /// `/proc/stat`; zeros where it cannot be read.
    pub fn now() -> CpuTimes {
        fs::read_to_string("/proc/stat").ok().and_then(|text| CpuTimes::parse(&text)).unwrap_or_default()
    }

    fn parse(stat: &str) -> Option<CpuTimes> {
        let words = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = words.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; what guests use is part of user.
        let [user, nice, system, idle, iowait, irq, softirq, steal] = *ticks.first_chunk()?;
        let busy = user + nice + system + irq + softirq;
        Some(CpuTimes { total: busy + idle + iowait + steal, busy, steal })
    }

    /// How the host was used since, where `ours` of the ticks are ours.
    pub fn until(self, later: CpuTimes, ours: u64) -> Load {
        let total = later.total.saturating_sub(self.total);
        let busy = later.busy.saturating_sub(self.busy).saturating_sub(ours);
        let stolen = later.steal.saturating_sub(self.steal);
        let others = busy + stolen;
        Load {
            others_percent: (others * 100).checked_div(total).unwrap_or(0) as u32,
            stolen_us: stolen * 1_000_000 / rustix::param::clock_ticks_per_second().max(1),
        }
    }
}

/// What a process has used so far, in clock ticks; nothing if it is gone.
pub fn process_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse_process_ticks(&stat).unwrap_or(0)
}

fn parse_process_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything, so count from behind it: utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_what_is_busy_and_not_ours() {
        let before = CpuTimes::parse("cpu  100 0 50 800 10 0 5 5 70 0\ncpu0 1 2\n").unwrap();
        let after = CpuTimes::parse("cpu  160 0 70 910 10 0 5 15 70 0\n").unwrap();
        // 200 ticks in all: 80 busy, of which 50 ours, and 10 stolen.
        assert_eq!(before.until(after, 50), Load { others_percent: 20, stolen_us: 100_000 });
        assert!(before.until(after, 50).is_overload());
        assert_eq!(before.until(before, 0), Load::default());
        assert!(Load { stolen_us: OVERLOADED_STOLEN_US, ..Load::default() }.is_overload());
        assert!(!Load { stolen_us: OVERLOADED_STOLEN_US / 2, ..Load::default() }.is_overload());
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "12 (a ) b) R 1 1 1 0 -1 4194304 101 0 0 0 7 3 0 0 20 0";
        assert_eq!(parse_process_ticks(stat), Some(10));
    }
}
