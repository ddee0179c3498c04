//! The built-in guest under real KVM, where its ring 0 and ring 3 both run natively.

use serde_json::Value;
use testbed::{BedConfig, Host, HostConfig, QEMU_WITH_XSETBV, qemu_version};

use crate::{
    bed,
    by_hand::{moved, ok},
};

/// How wide the vector registers are that carry pulse's pattern at this host.
fn vector_register_bytes(host: &Host) -> u64 {
    let info: Value = serde_json::from_str(&ok(host, "ferry info pulse --json")).expect("JSON");
    info["guest"]["vector_register_bytes"].as_u64().expect("a width")
}

/// `width` is that of the vector registers, in bytes.
fn there_and_back(test: &str, host: &HostConfig, vcpus: u8, width: u64) {
    let hosts = vec![host.clone(); 2];
    let Some(bed) = bed(test, &BedConfig { hosts, ..BedConfig::two() }) else { return };
    let (one, two) = (bed.host(0), bed.host(1));
    ok(one, &format!("ferry run pulse working-set=4MiB rate=500 --memory 32MiB --vcpus {vcpus} --detach"));
    for strategy in ["stop-and-copy", "pre-copy", "post-copy"] {
        for (from, to) in [(one, two), (two, one)] {
            moved("pulse", from, to, strategy);
            let checked = ok(to, "ferry check pulse");
            assert!(checked.contains(" 0 errors"), "{strategy} to {}: {checked}", to.name());
            assert_eq!(vector_register_bytes(to), width, "{strategy} to {}", to.name());
        }
    }
    ok(one, "ferry stop pulse");
}

#[test]
fn one_vcpu_there_and_back_by_each_strategy() {
    let test = "pulse::one_vcpu_there_and_back_by_each_strategy";
    there_and_back(test, &HostConfig::with_kvm(), 1, 16);
}

#[test]
fn two_vcpus_there_and_back_by_each_strategy() {
    let test = "pulse::two_vcpus_there_and_back_by_each_strategy";
    there_and_back(test, &HostConfig::with_kvm(), 2, 16);
}

#[test]
fn the_pattern_in_registers_of_avx_there_and_back() {
    let test = "pulse::the_pattern_in_registers_of_avx_there_and_back";
    if let Ok(version) = qemu_version()
        && version < QEMU_WITH_XSETBV
    {
        let (major, minor) = version;
        println!("skipped: {test}: by QEMU {major}.{minor} a guest's XSETBV does not reach KVM");
        return;
    }
    there_and_back(test, &HostConfig::with_avx(), 2, 32);
}
