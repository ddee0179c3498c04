use std::sync::Arc;

use super::Arrivals;
use crate::{
    pages::{Digest, PAGE_SIZE, PageNumber, PageRun, PageSet, SinkError},
    protocol::{Along, Missing},
    sim::{SimVm, SimWorkload},
    vm::{DestinationVm, MissingPages},
};

/// A machine of 16 pages that waits for them.
fn watching() -> (SimVm, Arc<dyn MissingPages>) {
    let workload = SimWorkload { seed: 1, working_set: 4, rate: None, zero_one_in: 0, network: false };
    let mut vm = SimVm::boot("arrivals", 16, workload).unwrap();
    let missing = vm.prepare_missing().unwrap();
    missing.watch(&PageSet::all(16)).unwrap();
    (vm, missing)
}

/// Loading a state touches pages that never held anything, and somebody must put zeros there: once the link that
/// page faults are served over is gone, nobody would.
#[test]
fn nobody_waits_once_nothing_is_missing_and_no_fault_is_served() {
    let (_vm, missing) = watching();
    let arrivals = Arrivals::none(PageSet::empty(16));
    assert_eq!(missing.install_zeros(PageRun::one(0)).unwrap(), 1, "page 0 was waited for");
    arrivals.urgent_failed(&*missing);
    assert_eq!(missing.install_zeros(PageRun::one(1)).unwrap(), 0, "page 1 is not");
    assert!(arrivals.begin_running().is_ok());
}

fn along(page: PageNumber, bytes: &[u8]) -> Along {
    let mut digest = Digest::default();
    digest.add_any(page, bytes);
    Along { pages: vec![page], digest }
}

#[test]
fn a_page_along_with_the_state_is_installed_as_it_was_sent_or_not_at_all() {
    let bytes = vec![7; PAGE_SIZE];
    let (_vm, missing) = watching();
    let mut arrivals = Arrivals::none(PageSet::all(16));
    arrivals.expect(&Missing::Runs(vec![(8, 8)]), Some(Digest::default())).unwrap();
    for page in [9, 16, u64::MAX] {
        let nonsense = Along { pages: vec![page], digest: Digest::default() };
        let refused = arrivals.install_along(&nonsense, &bytes, &*missing);
        assert!(matches!(refused, Err(SinkError::BadPageAlong { page: named }) if named == page));
    }
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    let found = arrivals.install_along(&along(2, &bytes), &damaged, &*missing);
    assert!(matches!(found, Err(SinkError::Damaged { first: 2, .. })), "{found:?}");
    let twice = arrivals.install_along(&along(2, &bytes), &bytes, &*missing);
    assert!(matches!(twice, Err(SinkError::AlreadyThere { first: 2 })), "{twice:?}");
    assert_eq!(arrivals.digest(), Some(Digest::default()));

    arrivals.install_along(&along(3, &bytes), &bytes, &*missing).unwrap();
    assert_eq!(arrivals.digest(), Some(along(3, &bytes).digest));
}

/// The room that was made before may hold anything.
#[test]
fn what_is_expected_is_what_the_source_says() {
    let mut arrivals = Arrivals::none(PageSet::all(16));
    arrivals.expect(&Missing::Runs(vec![(3, 2)]), None).unwrap();
    assert_eq!(arrivals.remaining(), 2);
    assert_eq!((0..16).filter(|&page| arrivals.is_expected(page)).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(arrivals.expect(&Missing::Runs(vec![(15, 2)]), None), None);
    arrivals.expect(&Missing::Nothing, None).unwrap();
    assert_eq!(arrivals.remaining(), 0);
}
