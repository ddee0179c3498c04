//! Moving on: A to B to C and back, by every strategy, with several vCPUs.

use engine::{
    options::{Options, Verify},
    strategy::Strategy,
};
use ferry_tests::{can_run_guests, guest::boot, moves::moved};

fn chain(vcpus: u8) {
    let mut vm = boot(64 << 20, vcpus, "working-set=8MiB dirty-rate=5000");
    for verify in [Verify::BeforeStart, Verify::AfterStart] {
        for strategy in Strategy::ALL {
            let options = Options { verify, ..Options::default() };
            vm = moved(vm, strategy, options, &format!("{vcpus} vCPUs, {verify:?}, {strategy}"));
        }
    }
}

#[test]
fn one_vcpu() {
    if can_run_guests("chain::one_vcpu") {
        chain(1);
    }
}

#[test]
fn two_vcpus() {
    if can_run_guests("chain::two_vcpus") {
        chain(2);
    }
}

#[test]
fn four_vcpus() {
    if can_run_guests("chain::four_vcpus") {
        chain(4);
    }
}

#[test]
fn ten_moves_in_a_row() {
    if !can_run_guests("chain::ten_moves_in_a_row") {
        return;
    }
    let mut vm = boot(32 << 20, 2, "working-set=4MiB dirty-rate=10000 pattern=hot-cold");
    for hop in 0..10 {
        let strategy = Strategy::ALL[hop % Strategy::ALL.len()];
        vm = moved(vm, strategy, Options::default(), &format!("hop {hop}, {strategy}"));
    }
}
