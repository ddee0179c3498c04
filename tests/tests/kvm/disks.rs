//! A disk goes with its guest: whoever runs the guest holds it, and nobody else.

use std::{fs::File, path::Path};

use engine::{report::Outcome, strategy::Strategy};
use ferry::kvm_vm::{KvmHost, KvmVm};
use ferry_tests::{can_run_guests, guest::boot_with, moves::Try};
use vmm::{Backend, Backing, CpuModel, DeviceConfig, Disk, DiskError, Vm, VmConfig};

const DISK_BYTES: u64 = 1 << 20;

fn devices() -> Vec<DeviceConfig> {
    vec![DeviceConfig::Block { read_only: false, bytes: DISK_BYTES }]
}

fn disk(path: &Path) -> Vec<Backend> {
    vec![Backend::Disk(Disk::new(path, false).expect("a disk"))]
}

/// Whether somebody holds the disk: another machine cannot have it then.
pub fn is_held(path: &Path) -> bool {
    let config =
        VmConfig { memory_bytes: 16 << 20, vcpus: 1, backing: Backing::Anonymous, devices: devices() };
    let mut other = Vm::new(&config, &CpuModel::host().expect("a CPU"), disk(path)).expect("a machine");
    match other.take_disks() {
        Ok(()) => false,
        Err(DiskError::Busy { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

fn moves(
    source: &mut KvmVm,
    strategy: Strategy,
    disks: &[&Path],
) -> (Outcome, Option<String>, Option<KvmVm>) {
    let disks = disks.iter().map(|path| path.to_path_buf()).collect();
    let host = KvmHost { disks, ..KvmHost::default() };
    let (report, arrived) = Try::new(strategy).run_with(source, host, |destination| destination());
    (report.outcome, report.error, arrived.ok())
}

#[test]
fn a_disk_goes_with_its_guest() {
    if !can_run_guests("disks::a_disk_goes_with_its_guest") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.raw");
    File::create(&path).and_then(|file| file.set_len(DISK_BYTES)).expect("a file");
    let smaller = folder.path().join("smaller.raw");
    File::create(&smaller).and_then(|file| file.set_len(DISK_BYTES / 2)).expect("a file");
    let mut vm = boot_with(32 << 20, 1, "working-set=4MiB dirty-rate=1000", devices(), disk(&path));
    for strategy in Strategy::ALL {
        assert!(is_held(&path), "{strategy}: before");
        for (wrong, said) in [(&[][..], "--disk path=FILE"), (&[&*smaller][..], "bytes")] {
            let (outcome, error, arrived) = moves(&mut vm, strategy, wrong);
            let error = error.unwrap_or_default();
            assert!(outcome == Outcome::Failed && arrived.is_none(), "{strategy}: {error}");
            assert!(error.contains(said), "{strategy}: {error}");
            assert!(is_held(&path), "{strategy}: the guest runs on with its disk");
        }
        let (outcome, error, arrived) = moves(&mut vm, strategy, &[&path]);
        assert_eq!(outcome, Outcome::Completed, "{strategy}: {error:?}");
        vm = arrived.expect("it arrived");
        assert!(is_held(&path), "{strategy}: the destination has it");
    }
    drop(vm);
    assert!(!is_held(&path), "free when the guest is gone");
}
