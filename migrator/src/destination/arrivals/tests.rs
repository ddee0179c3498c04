use super::Arrivals;
use crate::{
    pages::{PageRun, PageSet},
    sim::{SimVm, SimWorkload},
    vm::DestinationVm,
};

/// Loading a state touches pages that never held anything, and somebody must put zeros there: once the link that
/// page faults are served over is gone, nobody would.
#[test]
fn nobody_waits_once_nothing_is_missing_and_no_fault_is_served() {
    let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 0, network: false };
    let mut vm = SimVm::boot("arrivals", 16, workload).unwrap();
    let missing = vm.watch_missing().unwrap();
    let arrivals = Arrivals::new(PageSet::empty(16), None);
    assert_eq!(missing.install_zeros(PageRun::one(0)).unwrap(), 1, "page 0 was waited for");
    arrivals.urgent_failed(&*missing);
    assert_eq!(missing.install_zeros(PageRun::one(1)).unwrap(), 0, "page 1 is not");
    assert!(arrivals.begin_running().is_ok());
}
