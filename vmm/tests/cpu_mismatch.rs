//! A guest's CPU is compared with the host's, and what is missing is named.

mod common;

use vmm::{CpuMismatch, CpuModel};

#[test]
fn this_hosts_own_model_runs_here() {
    if !common::has_kvm("this_hosts_own_model_runs_here") {
        return;
    }
    let model = CpuModel::host().expect("this host's CPU");
    model.check_runs_here().expect("runs where it was made");
    assert_eq!(model.vendor().len(), 12);
    assert!(model.tsc_khz > 100_000, "{} kHz", model.tsc_khz);
    assert_eq!(model, CpuModel::host().expect("again"), "the same every time");
}

#[test]
fn what_this_host_lacks_is_named() {
    if !common::has_kvm("what_this_host_lacks_is_named") {
        return;
    }
    let host = CpuModel::host().expect("this host's CPU");
    let mut model = host.clone();
    let leaf = model.leaves.iter_mut().find(|leaf| leaf.function == 1).expect("leaf 1");
    // vmx is never given to a guest, so no host can go on with one that has it.
    leaf.ecx |= 1 << 5;
    let refused = model.check_runs_here().expect_err("no host gives vmx").to_string();
    assert!(refused.contains("vmx (leaf 1 ECX bit 5)"), "{refused}");

    let mut model = host.clone();
    model.leaves.iter_mut().find(|leaf| leaf.function == 0).expect("leaf 0").ebx ^= 1;
    assert!(matches!(model.check_runs_here(), Err(CpuMismatch::Vendor { .. })));

    let mut model = host.clone();
    model.leaves = vec![model.leaves[0]; 5000];
    assert!(matches!(model.check_runs_here(), Err(CpuMismatch::TooManyLeaves { .. })));

    let mut model = host;
    model.tsc_khz += model.tsc_khz / 10;
    if vmm::probe().kvm.is_ok_and(|kvm| kvm.tsc_scaling) {
        println!("skipped: what_this_host_lacks_is_named (TSC part): this host scales TSCs");
    } else {
        assert!(matches!(model.check_runs_here(), Err(CpuMismatch::TscFrequency { .. })));
    }
}
