//! Memory on reserved huge pages: it moves as any other, but no page of it can be missing.

use std::fs;

use engine::{
    options::Options,
    report::{Outcome, Report},
    strategy::Strategy,
};
use ferry::kvm_vm::{KvmHost, KvmVm};
use ferry_tests::{
    can_run_guests,
    guest::{assert_oracle_clean, boot_as},
    moves::Try,
};
use vmm::{Backing, VmConfig};

const MEMORY_BYTES: u64 = 32 << 20;
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Huge pages of 2 MiB that nobody has.
fn free_huge_pages() -> u64 {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    fs::read_to_string(free).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn moves(source: &mut KvmVm, strategy: Strategy, backing: Backing) -> (Report, Option<KvmVm>) {
    let options = Options { downtime_limit: std::time::Duration::from_secs(10), ..Options::default() };
    let attempt = Try { options, ..Try::new(strategy) };
    let host = KvmHost { backing, ..KvmHost::default() };
    let (report, arrived) = attempt.run_with(source, host, |destination| destination());
    (report, arrived.ok())
}

#[test]
fn a_guest_on_huge_pages_moves_to_huge_pages_unless_some_would_be_missing() {
    let name = "huge_pages::a_guest_on_huge_pages_moves_to_huge_pages_unless_some_would_be_missing";
    if !can_run_guests(name) {
        return;
    }
    let (wanted, free) = (2 * MEMORY_BYTES / HUGE_PAGE_BYTES, free_huge_pages());
    if free < wanted {
        println!(
            "skipped: {name}: {free} huge pages are free and it takes {wanted}: as root, echo {wanted} > \
             /proc/sys/vm/nr_hugepages"
        );
        return;
    }
    let config =
        VmConfig { memory_bytes: MEMORY_BYTES, vcpus: 1, backing: Backing::Hugetlbfs, devices: Vec::new() };
    let mut vm = boot_as(&config, "working-set=4MiB dirty-rate=2000", Vec::new());
    for strategy in [Strategy::StopAndCopy, Strategy::PreCopy] {
        let (report, arrived) = moves(&mut vm, strategy, Backing::Hugetlbfs);
        assert_eq!(report.outcome, Outcome::Completed, "{strategy}: {:?}", report.error);
        vm = arrived.expect("it arrived");
        assert_oracle_clean(&vm, strategy.name());
    }
    let (report, arrived) = moves(&mut vm, Strategy::PostCopy, Backing::Hugetlbfs);
    let error = report.error.unwrap_or_default();
    assert!(report.outcome == Outcome::Failed && arrived.is_none(), "{error}");
    assert!(error.contains("--backing anonymous"), "{error}");
    assert_eq!(report.moved.downtime_engine_us, None, "it did not stand still for that");
    assert_oracle_clean(&vm, "it runs on");
    // From huge pages it goes anywhere.
    let (report, arrived) = moves(&mut vm, Strategy::PostCopy, Backing::Anonymous);
    assert_eq!(report.outcome, Outcome::Completed, "{:?}", report.error);
    assert_oracle_clean(&arrived.expect("it arrived"), "by post-copy");
}
