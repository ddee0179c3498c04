//! What a reader of a result must know of the host.

use std::{
    env, fs,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::Machines;

/// Which KVM runs the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// Page-table virtualisation, without either.
    Pvm,
    /// There is a KVM, of a kind that this does not know.
    Other,
    /// None: guests are simulated.
    None,
}

/// `/proc/loadavg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadAverage {
    /// Over one minute.
    pub one_minute: f64,
    /// Over five.
    pub five_minutes: f64,
    /// Over fifteen.
    pub fifteen_minutes: f64,
}

/// Host, time and command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// As the CPU names itself.
    pub cpu_model: String,
    /// CPUs that are online.
    pub cores: u32,
    /// Kernel release.
    pub kernel: String,
    /// Which KVM runs the guests.
    pub kvm: Kvm,
    /// Why guests were simulated, if they were.
    pub simulated_because: Option<String>,
    /// Memory of the host.
    pub memory_bytes: u64,
    /// Load before the first run.
    pub load: LoadAverage,
    /// The commit that was measured, if it is known.
    pub commit: Option<String>,
    /// When it began, UTC, as in RFC 3339.
    pub date: String,
    /// What was typed.
    pub command: String,
    /// Ferry's version.
    pub version: String,
    /// The TCP congestion control of both engines' links, as the harness set it; nothing if there was no network of its
    /// own, or if results are older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion_control: Option<String>,
    /// QEMU's network card had vhost.
    #[serde(default)]
    pub vhost_net: bool,
    /// Some of Ferry's threads could run in real time (SCHED_FIFO); not known of older results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realtime_threads: Option<bool>,
}

impl HostFacts {
    /// Of this host, now. `congestion_control` is that of the network which the runs are made in.
    pub fn gather(machines: &Machines, congestion_control: Option<String>) -> HostFacts {
        HostFacts {
            cpu_model: cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            kvm: if machines.simulated.is_some() { Kvm::None } else { kvm() },
            simulated_because: machines.simulated.clone(),
            memory_bytes: memory_bytes(&read("/proc/meminfo"), "MemTotal").unwrap_or(0),
            load: load_average(),
            commit: commit(),
            date: rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
            command: command(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            congestion_control,
            vhost_net: has_vhost_net(),
            // On a thread of its own, with which it is gone.
            realtime_threads: std::thread::spawn(linux_host::scheduling::go_first).join().ok(),
        }
    }
}

/// Memory that could be used now, in bytes.
pub(super) fn available_bytes() -> Option<u64> {
    memory_bytes(&read("/proc/meminfo"), "MemAvailable")
}

/// Whether this user may give a network card to the kernel.
pub fn has_vhost_net() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/vhost-net").is_ok()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn memory_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn load_average() -> LoadAverage {
    let text = read("/proc/loadavg");
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
    let mut next = || words.next().unwrap_or(0.0);
    LoadAverage { one_minute: next(), five_minutes: next(), fifteen_minutes: next() }
}

fn kvm() -> Kvm {
    let loaded = |module: &str| fs::exists(format!("/sys/module/{module}")).unwrap_or(false);
    match () {
        () if loaded("kvm_pvm") => Kvm::Pvm,
        () if loaded("kvm_intel") => Kvm::Vmx,
        () if loaded("kvm_amd") => Kvm::Svm,
        () => Kvm::Other,
    }
}

/// Of the folder the harness runs in, with a mark if it differs from what is committed.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).stdin(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}, changed") })
}

/// What was typed, without where the program lies.
fn command() -> String {
    let arguments = env::args().skip(1).map(|argument| match argument.contains(char::is_whitespace) {
        true => format!("'{argument}'"),
        false => argument,
    });
    std::iter::once("ferry-bench".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Seconds since 1970 as a date; the civil calendar from days, after Howard Hinnant.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months are counted from March, so that the leap day comes last.
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_305_600 + 3_661), "2026-11-22T01:01:01Z");
    }

    #[test]
    fn proc_files_are_read() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A CPU: fast\n"), Some("A CPU: fast"));
        assert_eq!(memory_bytes("MemTotal:  8 kB\nMemAvailable: 4 kB\n", "MemAvailable"), Some(4096));
    }
}
