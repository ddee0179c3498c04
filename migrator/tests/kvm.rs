//! Real machines, in one process: pulse moves by each strategy and finds every page right.
#![cfg(feature = "kvm")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use guest_images::pulse;
use migrator::{
    destination::receive,
    kvm_vm::{KvmHost, KvmVm},
    options::{Options, Verify},
    report::Outcome,
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
};
use telemetry::{CHECK_REQUEST_ADDRESS, Snapshot, TELEMETRY_ADDRESS, TELEMETRY_BYTES};
use vmm::{Backing, CpuModel, VmConfig};

/// Whether machines can be made here; says so if not.
fn kvm_is_there(test: &str) -> bool {
    let host = vmm::probe();
    let missing = host.kvm.err().map(|e| e.to_string()).or(host.missing_pages.err().map(|e| e.to_string()));
    missing.inspect(|reason| println!("skipped: {test}: {reason}")).is_none()
}

fn boot(memory_bytes: u64, options: &str, vcpus: u8) -> KvmVm {
    let config = VmConfig { memory_bytes, vcpus, backing: Backing::Anonymous };
    let mut vm = KvmVm::new("pulse", &config, &CpuModel::host().expect("a CPU")).expect("a machine");
    let line = format!("pulse vcpus={vcpus} {options}");
    vm.machine_mut().boot(pulse::IMAGE, &line, None).expect("pulse boots");
    vm.machine_mut().start();
    await_guest(&vm, "pulse fills its memory", Snapshot::is_ready);
    vm
}

fn snapshot(vm: &KvmVm) -> Snapshot {
    let mut bytes = vec![0; TELEMETRY_BYTES];
    vm.machine().memory().read(TELEMETRY_ADDRESS, &mut bytes).expect("telemetry is in memory");
    Snapshot::parse(&bytes).expect("telemetry")
}

fn await_guest(vm: &KvmVm, what: &str, reached: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let begin = Instant::now();
    loop {
        let mut bytes = vec![0; TELEMETRY_BYTES];
        vm.machine().memory().read(TELEMETRY_ADDRESS, &mut bytes).expect("telemetry is in memory");
        match Snapshot::parse(&bytes) {
            Ok(snapshot) if reached(&snapshot) => return snapshot,
            _ if begin.elapsed() < Duration::from_secs(60) => thread::sleep(Duration::from_millis(2)),
            other => panic!("{what}: not within a minute: {other:?}"),
        }
    }
}

/// The guest looks at all of its memory.
fn assert_oracle_clean(vm: &KvmVm, context: &str) {
    let request = snapshot(vm).next_check_request();
    vm.machine()
        .memory()
        .write(CHECK_REQUEST_ADDRESS, &request.to_le_bytes())
        .expect("the request is in memory");
    let after = await_guest(vm, context, |snapshot| snapshot.check_result(request).is_some());
    assert_eq!(after.errors(), 0, "{context}: {:?}", after.named_errors().collect::<Vec<_>>());
}

fn moved(mut source: KvmVm, strategy: Strategy, verify: Verify, context: &str) -> KvmVm {
    let (mut acceptor, address) = "tcp://127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
    let options = Options { verify, ..Options::default() };
    let arrival = thread::scope(|scope| {
        let destination = scope
            .spawn(move || receive(&mut KvmHost::default(), &mut *acceptor, &Interrupt::default(), |_| ()));
        let report = migrate(
            &mut source,
            &*address.connector(),
            strategy,
            &options,
            &Interrupt::default(),
            &Arc::default(),
        );
        println!("{context}: {}", serde_like(&report));
        assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
        assert_eq!(report.verified, (verify != Verify::No).then_some(true), "{context}");
        destination.join().expect("no panic").expect("it arrived")
    });
    assert_oracle_clean(&arrival.vm, context);
    arrival.vm
}

fn serde_like(report: &migrator::report::Report) -> String {
    format!(
        "downtime {:?} us {:?}, total {} us, {} rounds, faults {:?}",
        report.downtime_engine_us,
        report.downtime_parts_us,
        report.total_us,
        report.rounds.len(),
        report.page_faults
    )
}

#[test]
fn a_chain_of_moves_by_each_strategy_with_one_two_and_four_vcpus() {
    if !kvm_is_there("a_chain_of_moves_by_each_strategy_with_one_two_and_four_vcpus") {
        return;
    }
    for vcpus in [1, 2, 4] {
        let mut vm = boot(64 << 20, "working-set=8MiB rate=5000", vcpus);
        for (hop, verify) in [Verify::BeforeStart, Verify::AfterStart, Verify::No].into_iter().enumerate() {
            for strategy in Strategy::ALL {
                vm = moved(vm, strategy, verify, &format!("{vcpus} vCPUs, round {hop}, {strategy}"));
            }
        }
    }
}
