//! From the smallest guest to one whose memory goes around the hole below 4 GiB.

use engine::{
    options::{Options, Verify},
    strategy::Strategy,
};
use ferry_tests::{can_run_guests, guest::boot, moves::moved};

fn sizes(memory_bytes: u64, fill: &str) {
    let verify = Verify::AfterStart;
    let mut vm = boot(memory_bytes, 1, &format!("fill={fill} working-set=2MiB dirty-rate=2000"));
    for strategy in Strategy::ALL {
        let options = Options { verify, ..Options::default() };
        vm = moved(vm, strategy, options, &format!("{} MiB of {fill}, {strategy}", memory_bytes >> 20));
    }
}

#[test]
fn sixteen_mebibytes() {
    if can_run_guests("sizes::sixteen_mebibytes") {
        sizes(16 << 20, "text");
    }
}

#[test]
fn one_gibibyte_of_zeros() {
    if can_run_guests("sizes::one_gibibyte_of_zeros") {
        sizes(1 << 30, "zeros");
    }
}

#[test]
fn four_gibibytes_around_the_hole() {
    if can_run_guests("sizes::four_gibibytes_around_the_hole") {
        sizes(4 << 30, "random");
    }
}
