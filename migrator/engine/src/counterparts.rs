//! Where the wire meets the engine: what a message holds becomes what the engine, its machines and its reports hold, and the
//! other way round.
//!
//! Each of them is taken apart and put together by name, so that a field that is added on one side must be thought about
//! here, and a report or a description can change without the wire.

use crate::{
    protocol::{FaultTimes, GuestEnded, MAX_CONSOLE_BYTES, OfferedVm},
    report::{FaultStatistics, GuestEnd},
    vm::{CONSOLE_BYTES, VmDescription},
};

const _: () = assert!(CONSOLE_BYTES <= MAX_CONSOLE_BYTES, "a console's history goes into a message");

impl From<VmDescription> for OfferedVm {
    fn from(vm: VmDescription) -> OfferedVm {
        let VmDescription { name, kind, page_count, vcpus, image, paused, machine } = vm;
        OfferedVm { name, kind, page_count, vcpus, image, paused, machine }
    }
}

impl From<OfferedVm> for VmDescription {
    fn from(vm: OfferedVm) -> VmDescription {
        let OfferedVm { name, kind, page_count, vcpus, image, paused, machine } = vm;
        VmDescription { name, kind, page_count, vcpus, image, paused, machine }
    }
}

impl From<FaultStatistics> for FaultTimes {
    fn from(faults: FaultStatistics) -> FaultTimes {
        let FaultStatistics { count, p50_us, p99_us, max_us, blocktime_us, histogram } = faults;
        FaultTimes { count, p50_us, p99_us, max_us, blocktime_us, histogram }
    }
}

impl From<FaultTimes> for FaultStatistics {
    fn from(faults: FaultTimes) -> FaultStatistics {
        let FaultTimes { count, p50_us, p99_us, max_us, blocktime_us, histogram } = faults;
        FaultStatistics { count, p50_us, p99_us, max_us, blocktime_us, histogram }
    }
}

impl From<GuestEnd> for GuestEnded {
    fn from(end: GuestEnd) -> GuestEnded {
        let GuestEnd { exit_code, words } = end;
        GuestEnded { exit_code, words }
    }
}

impl From<GuestEnded> for GuestEnd {
    fn from(end: GuestEnded) -> GuestEnd {
        let GuestEnded { exit_code, words } = end;
        GuestEnd { exit_code, words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_nothing_is_lost() {
        let vm = VmDescription {
            name: "a".to_owned(),
            kind: "b".to_owned(),
            page_count: 3,
            vcpus: 4,
            image: Some("c".to_owned()),
            paused: true,
            machine: vec![5],
        };
        assert_eq!(VmDescription::from(OfferedVm::from(vm.clone())), vm);
        let faults = FaultStatistics {
            count: 1,
            p50_us: 2,
            p99_us: 3,
            max_us: 4,
            blocktime_us: 5,
            histogram: vec![6, 7],
        };
        assert_eq!(FaultStatistics::from(FaultTimes::from(faults.clone())), faults);
        let end = GuestEnd { exit_code: 8, words: "d".to_owned() };
        assert_eq!(GuestEnd::from(GuestEnded::from(end.clone())), end);
    }
}
