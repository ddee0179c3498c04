//! Time that a guest does not run is a gap it reports.

use std::time::Duration;

use crate::machine::Machine;
use crate::{MIB, line};

#[test]
fn a_pause_is_a_gap_of_the_epoch_it_falls_in() {
    let line = line(2);
    let Some(mut machine) = Machine::start(32 * MIB, &line) else {
        return;
    };
    machine.wait_until("ready", telemetry::Snapshot::is_ready);
    machine.begin_gap_epoch(1);
    machine.wait_until("the epoch", |snapshot| snapshot.in_gap_epoch(1));
    let before = machine.snapshot();
    let since = before.vcpus[0].step_tsc;
    machine.pause_for(Duration::from_millis(300));
    // At least so long; the guest knows its TSC's frequency only as well as it could measure it.
    let pause = Duration::from_millis(270);
    let clock = before.vcpus[0].clock_ns;
    // Of each vCPU: on a busy host one may run for long before the other runs again.
    let after = machine.snapshot();
    machine.wait_until("steps of each vCPU", |now| {
        now.vcpus.iter().zip(&after.vcpus).all(|(now, after)| now.heartbeat > after.heartbeat + 10_000)
    });
    let snapshot = machine.snapshot();
    let (_, gap) = snapshot.longest_gap_since(since).expect("a gap");
    assert!(snapshot.duration(gap.ticks) >= pause, "{gap:?}");
    for vcpu in &snapshot.vcpus {
        assert!(snapshot.duration(vcpu.longest_gaps[0].ticks) >= pause, "vCPU {}", vcpu.number);
        assert_eq!((vcpu.tsc_backwards, vcpu.register_errors), (0, 0));
        assert!(vcpu.register_checks > 0);
    }
    // Without kvmclock (on QEMU's software CPU) there is no clock to go wrong.
    if clock != 0 {
        let vcpu = &snapshot.vcpus[0];
        assert!(u128::from(vcpu.clock_ns - clock) >= pause.as_nanos());
        assert_eq!(vcpu.clock_backwards, 0);
    }
    machine.begin_gap_epoch(2);
    machine.wait_until("the next epoch", |snapshot| snapshot.in_gap_epoch(2));
    let snapshot = machine.snapshot();
    for vcpu in &snapshot.vcpus {
        let from_before = vcpu.longest_gaps.iter().find(|gap| gap.end_tsc() < vcpu.gap_epoch_tsc);
        assert_eq!(from_before, None, "vCPU {}", vcpu.number);
    }
}
