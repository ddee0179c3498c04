//! What the machine needs: KVM, its dirty log, userfaultfd, memory.

use super::{Lack, Need, Weight, lack};
use crate::cli::units::{show_bytes, show_count};
use engine::report::in_words;

pub fn needs() -> Vec<Need> {
    let host = vmm::probe();
    let facts = host.kvm.as_ref();
    let without_kvm =
        || Lack { found: "not known without KVM".to_owned(), mend: "mend KVM first".to_owned() };
    let kvm = match &host.kvm {
        Ok(facts) => Ok(format!("API {}, up to {} vCPUs", facts.api_version, facts.max_vcpus)),
        // Its words say how to mend it.
        Err(error) => lack("not usable", in_words(error)),
    };
    let dirty_log = facts.map_err(|_| without_kvm()).and_then(|facts| {
        match (facts.dirty_log_manual_protect, facts.dirty_log_initially_set) {
            (true, true) => Ok("cleared page by page, and all set at first".to_owned()),
            (true, false) => Ok("cleared page by page".to_owned()),
            (false, _) => lack(
                "cleared only as a whole",
                "a kernel of 5.7 or newer; Ferry works without, with longer pauses",
            ),
        }
    });
    let clock = facts.map_err(|_| without_kvm()).and_then(|facts| match facts.clock_knows_wall_time {
        true => Ok("moved on over a migration by KVM itself".to_owned()),
        false => lack("moved on by Ferry, to the microsecond", "a kernel of 5.16 or newer"),
    });
    let tsc = facts.map_err(|_| without_kvm()).and_then(|facts| match facts.tsc_scaling {
        true => Ok("a guest may keep its frequency on another host".to_owned()),
        false => lack(
            "a guest cannot keep another host's frequency",
            "move only between hosts with the same TSC frequency; Ferry refuses others before anything moves",
        ),
    });
    // To be compared between two hosts: none of it is a lack.
    let registers = facts.map_err(|_| without_kvm()).map(|facts| {
        let has = |has: bool| if has { "yes" } else { "no" };
        let amx = if facts.has_amx { "yes, and no guest gets it" } else { "no" };
        let bytes = show_count(facts.xsave_bytes as u64);
        format!("XSAVE of {bytes} bytes; AVX-512: {}; AMX: {amx}", has(facts.has_avx512))
    });
    let missing_pages = match &host.missing_pages {
        Ok(()) => Ok("page faults of guests can be served".to_owned()),
        Err(error) => lack("not permitted", in_words(error)),
    };
    let huge = match host.transparent_huge_pages {
        vmm::TransparentHugePages::Always | vmm::TransparentHugePages::OnRequest => {
            Ok(format!("on; {} reserved 2 MiB pages are free", host.free_huge_pages))
        }
        vmm::TransparentHugePages::Never | vmm::TransparentHugePages::Absent => {
            lack("off", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        }
    };
    let available = |room: &vmm::Room| match &room.cgroup {
        Some(cgroup) => format!(
            "{} available, {} by the cgroup {}",
            show_bytes(room.host),
            show_bytes(cgroup.left),
            cgroup.folder.display()
        ),
        None => format!("{} available", show_bytes(room.host)),
    };
    let memory = match &host.room {
        Some(room) if room.bytes() >= 1 << 30 => Ok(available(room)),
        Some(room) => lack(available(room), "stop something, or run smaller guests: --memory 128MiB"),
        None => lack("not known", "look at /proc/meminfo"),
    };
    vec![
        Need::new("KVM", Weight::Necessary, "runs guests", kvm),
        Need::new("dirty log", Weight::Useful, "pre-copy asks it what to send again", dirty_log),
        Need::new(
            "userfaultfd",
            Weight::Useful,
            "post-copy runs a guest whose pages come later",
            missing_pages,
        ),
        Need::new("guest clock", Weight::Measuring, "a guest's clock goes on over the downtime", clock),
        Need::new("TSC scaling", Weight::Measuring, "hosts of other frequencies can take a guest", tsc),
        Need::new("registers", Weight::Measuring, "a guest moves to hosts that have what it uses", registers),
        Need::new("huge pages", Weight::Measuring, "filling and copying guest memory is faster", huge),
        Need::new(
            "memory",
            Weight::Useful,
            "source and destination on one host need a guest's memory twice",
            memory,
        ),
    ]
}
