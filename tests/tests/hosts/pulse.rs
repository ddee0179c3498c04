//! The built-in guest under real KVM, where its ring 0 and ring 3 both run natively.

use ferry_tests::hosts::BedConfig;

use crate::{
    bed,
    by_hand::{moved, ok},
};

fn there_and_back(test: &str, vcpus: u8) {
    let Some(bed) = bed(test, &BedConfig::two()) else { return };
    let (one, two) = (bed.host(0), bed.host(1));
    ok(one, &format!("ferry run pulse working-set=4MiB rate=500 --memory 32MiB --vcpus {vcpus} --detach"));
    for strategy in ["stop-and-copy", "pre-copy", "post-copy"] {
        for (from, to) in [(one, two), (two, one)] {
            moved("pulse", from, to, strategy);
            let checked = ok(to, "ferry check pulse");
            assert!(checked.contains(" 0 errors"), "{strategy} to {}: {checked}", to.name());
        }
    }
    ok(one, "ferry stop pulse");
}

#[test]
fn one_vcpu_there_and_back_by_each_strategy() {
    there_and_back("pulse::one_vcpu_there_and_back_by_each_strategy", 1);
}

#[test]
fn two_vcpus_there_and_back_by_each_strategy() {
    there_and_back("pulse::two_vcpus_there_and_back_by_each_strategy", 2);
}
