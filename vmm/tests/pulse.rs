//! The built-in guest boots here, and finds every page, register and clock right after moves from machine to machine.

mod common;

use common::{PATIENCE, config, copy_memory, machine_of, pages_in, until};
use guest_images::pulse::{CommandLine, DirtyRate, IMAGE, Idle};
use telemetry::{CHECK_REQUEST_ADDRESS, STOP_REQUEST_ADDRESS, Snapshot, TELEMETRY_ADDRESS, TELEMETRY_BYTES};
use vmm::{Event, MissingPages, PAGE_BYTES, PageFault, Vm};

fn booted(vcpus: u8, idle: Idle) -> Vm {
    let mut vm = machine_of(&config(64, vcpus));
    let line = CommandLine {
        vcpus: u64::from(vcpus),
        idle,
        working_set_bytes: 8 << 20,
        dirty_rate: DirtyRate::PagesPerSecond(5_000),
        ..CommandLine::default()
    };
    vm.boot(IMAGE, &line.to_string(), None).expect("pulse boots");
    vm.start();
    until("pulse is ready", || {
        alive(&vm);
        snapshot(&vm).is_some_and(|snapshot| snapshot.is_ready())
    });
    vm
}

fn alive(vm: &Vm) {
    if let Some(event) = vm.events().poll() {
        panic!("{event}; {:?}", snapshot(vm).and_then(|snapshot| snapshot.fault));
    }
}

fn snapshot(vm: &Vm) -> Option<Snapshot> {
    let mut bytes = vec![0; TELEMETRY_BYTES];
    vm.memory().read(TELEMETRY_ADDRESS, &mut bytes).expect("telemetry lies in memory");
    Snapshot::parse(&bytes).ok()
}

/// Has the guest check all its memory, while it goes on writing.
fn check(vm: &Vm) {
    let request = snapshot(vm).expect("telemetry").next_check_request();
    vm.memory().write(CHECK_REQUEST_ADDRESS, &request.to_le_bytes()).expect("an address in memory");
    until("the check is done", || {
        alive(vm);
        snapshot(vm).is_some_and(|snapshot| snapshot.check_result(request).is_some())
    });
    let snapshot = snapshot(vm).expect("telemetry");
    let result = snapshot.check_result(request).expect("just seen");
    let named: Vec<_> = snapshot.named_errors().collect();
    assert_eq!((result.errors, snapshot.errors()), (0, 0), "{named:?}");
    assert!(result.pages > 10_000, "{} pages checked", result.pages);
    for vcpu in &snapshot.vcpus {
        assert_eq!(vcpu.register_errors, 0, "{:?}", vcpu.register_error);
        assert_eq!((vcpu.clock_backwards, vcpu.tsc_backwards), (0, 0), "vCPU {}", vcpu.number);
    }
}

fn stop(vm: &Vm) {
    vm.memory().write(STOP_REQUEST_ADDRESS, &6u64.to_le_bytes()).expect("an address in memory");
    let event = vm.events().wait_for(PATIENCE).expect("an event");
    assert!(matches!(event, Event::Exited { code: 5 }), "{event}");
}

/// Copies while the guest runs, then what it wrote meanwhile, then its state.
fn moved_by_rounds(from: &mut Vm) -> Vm {
    let mut to = machine_of(from.config());
    from.start_dirty_log().expect("starts");
    let mut page = vec![0; PAGE_BYTES as usize];
    let mut round = |from: &mut Vm, to: &Vm| {
        let mut bits = vec![0; from.memory().bitmap_words()];
        from.harvest_dirty(&mut bits).expect("harvests");
        for number in pages_in(&bits) {
            from.memory().read(number * PAGE_BYTES, &mut page).expect("a page");
            to.memory().write(number * PAGE_BYTES, &page).expect("a page");
        }
    };
    (0..4).for_each(|_| round(from, &to));
    from.pause().expect("pauses");
    let state = from.save().expect("saves");
    round(from, &to);
    to.restore(&state).expect("restores");
    to.start();
    to
}

#[test]
fn pulse_proves_every_page_after_each_of_several_moves() {
    if !common::has_kvm("pulse_proves_every_page_after_each_of_several_moves") {
        return;
    }
    for (vcpus, idle) in [(1, Idle::Spin), (2, Idle::Spin), (2, Idle::Halt)] {
        let mut vm = booted(vcpus, idle);
        check(&vm);
        for _ in 0..3 {
            vm = moved_by_rounds(&mut vm);
            check(&vm);
        }
        stop(&vm);
    }
}

#[test]
fn pulse_proves_every_page_though_all_were_missing() {
    if !common::has_missing_pages("pulse_proves_every_page_though_all_were_missing") {
        return;
    }
    let mut source = booted(2, Idle::Spin);
    source.pause().expect("pauses");
    let state = source.save().expect("saves");
    let mut vm = machine_of(source.config());
    let missing = MissingPages::open(vm.memory()).expect("opens");
    let present = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        // One owner for both: faults first, else the next chunk.
        scope.spawn(|| {
            let bytes = |first: u64, count: u64| {
                let mut bytes = vec![0; (count * PAGE_BYTES) as usize];
                source.memory().read(first * PAGE_BYTES, &mut bytes).expect("pages");
                bytes
            };
            let (mut faults, mut next): (Vec<PageFault>, _) = (Vec::new(), 0);
            let pages = source.memory().page_count();
            while present.load(std::sync::atomic::Ordering::Relaxed) < pages {
                missing.read_faults(&mut faults).expect("reads faults");
                let mut installed: u64 = 0;
                for fault in faults.drain(..) {
                    installed += missing.install(fault.page, &bytes(fault.page, 1)).expect("installs");
                }
                if next < pages {
                    installed += missing.install(next, &bytes(next, 16)).expect("installs");
                    next += 16;
                }
                present.fetch_add(installed, std::sync::atomic::Ordering::Relaxed);
            }
        });
        vm.restore(&state).expect("restores");
        vm.start();
    });
    missing.close().expect("closes");
    check(&vm);
    stop(&vm);
}

#[test]
fn a_copy_taken_at_rest_is_right_as_well() {
    if !common::has_kvm("a_copy_taken_at_rest_is_right_as_well") {
        return;
    }
    let mut source = booted(1, Idle::Halt);
    source.pause().expect("pauses");
    let state = source.save().expect("saves");
    let mut vm = machine_of(source.config());
    copy_memory(&source, &vm);
    vm.restore(&state).expect("restores");
    vm.start();
    check(&vm);
    // The source was only read: it runs on, too, as after a try that failed.
    source.resume().expect("resumes");
    check(&source);
    stop(&vm);
    stop(&source);
}
