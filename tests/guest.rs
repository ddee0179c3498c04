//! Pulse on a real machine.

use std::{
    thread,
    time::{Duration, Instant},
};

use ferry::kvm_vm::KvmVm;
use guest_images::pulse;
use telemetry::{CHECK_REQUEST_ADDRESS, Snapshot, TELEMETRY_ADDRESS, TELEMETRY_BYTES};
use vmm::{Backend, Backing, CpuModel, DeviceConfig, VmConfig};

/// How long a guest may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Boots pulse and waits until it has filled its memory. `options` is its command line.
///
/// # Panics
/// If it does not come up.
pub fn boot(memory_bytes: u64, vcpus: u8, options: &str) -> KvmVm {
    boot_with(memory_bytes, vcpus, options, Vec::new(), Vec::new())
}

/// As [`boot`], with devices, and what they need of this host.
///
/// # Panics
/// If it does not come up.
pub fn boot_with(
    memory_bytes: u64,
    vcpus: u8,
    options: &str,
    devices: Vec<DeviceConfig>,
    backends: Vec<Backend>,
) -> KvmVm {
    boot_as(&VmConfig { memory_bytes, vcpus, backing: Backing::Anonymous, devices }, options, backends)
}

/// As [`boot_with`], on a machine of this configuration.
///
/// # Panics
/// If it does not come up.
pub fn boot_as(config: &VmConfig, options: &str, backends: Vec<Backend>) -> KvmVm {
    let mut vm = KvmVm::new("pulse", config, &CpuModel::host().expect("a CPU"), backends).expect("a machine");
    let line = format!("pulse vcpus={} {options}", config.vcpus);
    vm.machine_mut().boot(pulse::IMAGE, &line, None).expect("pulse boots");
    vm.machine_mut().start();
    await_guest(&vm, "pulse fills its memory", Snapshot::is_ready);
    vm
}

/// What the guest says of itself, if it makes sense at this moment.
pub fn snapshot(vm: &KvmVm) -> Option<Snapshot> {
    let mut bytes = vec![0; TELEMETRY_BYTES];
    vm.machine().memory().read(TELEMETRY_ADDRESS, &mut bytes).expect("telemetry is in memory");
    Snapshot::parse(&bytes).ok()
}

/// Waits until the guest has reached something.
///
/// # Panics
/// If it does not within a minute.
pub fn await_guest(vm: &KvmVm, what: &str, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let begin = Instant::now();
    loop {
        match snapshot(vm) {
            Some(snapshot) if reached(&snapshot) => return snapshot,
            other if begin.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}: {other:?}"),
            _ => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The guest looks at all of its memory, and goes on writing.
///
/// # Panics
/// If a page is lost or stale: it is named.
pub fn assert_oracle_clean(vm: &KvmVm, context: &str) {
    let request = await_guest(vm, context, |_| true).next_check_request();
    vm.machine().memory().write(CHECK_REQUEST_ADDRESS, &request.to_le_bytes()).expect("in memory");
    let after = await_guest(vm, context, |snapshot| snapshot.check_result(request).is_some());
    assert_eq!(after.errors(), 0, "{context}: {:?}", after.named_errors().collect::<Vec<_>>());
    await_guest(vm, context, |snapshot| snapshot.heartbeat() > after.heartbeat());
}
