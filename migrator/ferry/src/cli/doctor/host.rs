//! What emulated networks and honest figures need of the host.

use std::{fs, path::Path, thread};

use rustix::process::{Resource, getrlimit};

use super::{super::bridges, Lack, Need, Weight, lack};
use engine::report::in_words;
use linux_host::network;

/// Files that the largest guest with the most links has open, with room to spare.
const FILES: u64 = 256;

pub fn needs() -> Vec<Need> {
    vec![
        Need::new("tap", Weight::Useful, "guests with a network", tap()),
        Need::new(
            "bridges",
            Weight::Useful,
            "guests reach their gateway right after a move",
            bridge_addresses(),
        ),
        Need::new("network namespaces", Weight::Useful, "emulated hosts on one machine", namespaces()),
        Need::new("precedence", Weight::Useful, "clients of a guest that moves wait less", precedence()),
        Need::new("open files", Weight::Useful, "links, sockets and guests", open_files()),
        Need::new("CPUs", Weight::Measuring, "a guest and the engine that moves it share them", cpus()),
        Need::new("CPU governor", Weight::Measuring, "a clock that changes makes figures differ", governor()),
        Need::new("load", Weight::Measuring, "an overloaded host makes figures worthless", load()),
    ]
}

fn tap() -> Result<String, Lack> {
    match network::tap() {
        Ok(()) => Ok("/dev/net/tun can be opened".to_owned()),
        Err(error) => {
            lack(format!("/dev/net/tun: {error}"), "modprobe tun, and as root: chmod 666 /dev/net/tun")
        }
    }
}

/// Whether bridges with taps in them keep their addresses when ports come and go.
fn bridge_addresses() -> Result<String, Lack> {
    let changing = bridges::all_without_fixed_mac(Path::new(bridges::INTERFACES));
    let Some(first) = changing.first() else {
        return Ok("none with a tap in it whose MAC changes with its ports".to_owned());
    };
    lack(
        format!(
            "{}: the MAC changes with the ports; guests cannot reach such a gateway for up to a minute after a move",
            changing.join(", ")
        ),
        bridges::mend(first),
    )
}

fn namespaces() -> Result<String, Lack> {
    match network::permitted() {
        Ok(privilege) => Ok(privilege.in_words().to_owned()),
        Err(refusal) => lack(in_words(&refusal), refusal.mend()),
    }
}

/// Whether threads that a guest or its clients wait for may go before others.
fn precedence() -> Result<String, Lack> {
    // On a thread of its own, with which it is gone.
    let permitted = thread::spawn(linux_host::scheduling::go_first).join().unwrap_or(false);
    match permitted {
        true => Ok("threads may go ahead of others (SCHED_FIFO)".to_owned()),
        false => lack(
            "threads may not go ahead of others (SCHED_FIFO)",
            "as root: setcap cap_sys_nice+ep FERRY, with the path of this program",
        ),
    }
}

fn open_files() -> Result<String, Lack> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FILES => lack(format!("at most {limit}"), format!("ulimit -n {FILES}")),
        Some(limit) => Ok(format!("up to {limit}")),
        None => Ok("no limit".to_owned()),
    }
}

fn cpus() -> Result<String, Lack> {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => lack("1", "two or more: with one, guest and engine wait for each other"),
        cpus => Ok(cpus.to_string()),
    }
}

fn governor() -> Result<String, Lack> {
    match fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        Ok(governor) if governor.trim() == "performance" => Ok("performance".to_owned()),
        Ok(governor) => lack(governor.trim(), "as root: cpupower frequency-set -g performance"),
        Err(_) => Ok("none to be seen (a virtual machine, or a fixed clock)".to_owned()),
    }
}

fn load() -> Result<String, Lack> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    if load > cpus as f64 {
        lack(format!("{load} on {cpus} CPUs"), "wait until other work is done before you measure")
    } else {
        Ok(format!("{load} on {cpus} CPUs"))
    }
}
