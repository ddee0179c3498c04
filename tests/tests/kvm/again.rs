//! After a failed try and after a cancelled one the guest runs on, and moves the next time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use engine::{
    options::Options, pages::PageSet, progress::Phase, report::Outcome, strategy::Strategy, vm::SourceVm,
};
use ferry::kvm_vm::KvmVm;
use ferry_tests::{
    can_run_guests,
    guest::{assert_oracle_clean, await_guest, boot},
    moves::{Try, moved},
};

const BUSY: &str = "working-set=8MiB dirty-rate=5000";

/// Cancels as soon as the migration is in `phase`.
fn cancelled(source: &mut KvmVm, strategy: Strategy, phase: Phase) {
    let context = format!("{strategy} cancelled in {phase:?}");
    let mut attempt = Try::new(strategy);
    attempt.options.max_bandwidth = Some(200_000_000);
    let (interrupt, progress) = (attempt.interrupt.clone(), Arc::clone(&attempt.progress));
    thread::scope(|scope| {
        scope.spawn(move || {
            let begin = Instant::now();
            while progress.snapshot().phase != phase && begin.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(1));
            }
            interrupt.raise();
        });
        let (report, arrived) = attempt.run(source);
        assert_eq!(report.outcome, Outcome::Cancelled, "{context}: {:?}", report.error);
        assert!(arrived.is_err(), "{context}");
    });
    let before = await_guest(source, &context, |_| true).heartbeat();
    await_guest(source, "it runs on here", |snapshot| snapshot.heartbeat() > before);
    assert_oracle_clean(source, &context);
}

#[test]
fn a_move_after_cancelled_ones() {
    if !can_run_guests("again::a_move_after_cancelled_ones") {
        return;
    }
    let mut vm = boot(64 << 20, 2, BUSY);
    cancelled(&mut vm, Strategy::PreCopy, Phase::Rounds);
    cancelled(&mut vm, Strategy::StopAndCopy, Phase::Switchover);
    for strategy in Strategy::ALL {
        vm = moved(vm, strategy, Options::default(), "after cancelled ones");
    }
}

#[test]
fn a_move_after_one_that_did_not_converge() {
    if !can_run_guests("again::a_move_after_one_that_did_not_converge") {
        return;
    }
    let mut vm = boot(64 << 20, 1, "working-set=16MiB dirty-rate=max");
    let mut attempt = Try::new(Strategy::PreCopy);
    attempt.options.max_bandwidth = Some(1_000_000_000);
    attempt.options.downtime_limit = Duration::from_millis(1);
    let (report, arrived) = attempt.run(&mut vm);
    let error = report.error.unwrap_or_default();
    assert!(error.contains("does not converge") && arrived.is_err(), "{error}");
    assert_oracle_clean(&vm, "it runs on");
    moved(vm, Strategy::PostCopy, Options::default(), "by post-copy instead");
}

/// A machine that takes part in everything but the one thing that is spoilt.
struct Spoilt<'a> {
    vm: &'a mut KvmVm,
    state: fn(Vec<u8>) -> Vec<u8>,
    saves: u32,
}

impl SourceVm for Spoilt<'_> {
    fn describe(&self) -> engine::vm::VmDescription {
        self.vm.describe()
    }

    fn pages(&self) -> Arc<dyn engine::pages::GuestPages> {
        SourceVm::pages(self.vm)
    }

    fn start_dirty_log(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.start_dirty_log()
    }

    fn take_dirty(&mut self, dirty: &mut PageSet) -> Result<(), engine::vm::VmError> {
        self.vm.take_dirty(dirty)
    }

    fn stop_dirty_log(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.stop_dirty_log()
    }

    fn pause(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.pause()
    }

    fn resume(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.resume()
    }

    fn before_pause(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.before_pause()
    }

    fn release(&mut self) -> Result<(), engine::vm::VmError> {
        self.vm.release()
    }

    fn first_pages(&self) -> Vec<u64> {
        self.vm.first_pages()
    }

    fn network(&self) -> Option<Arc<dyn engine::vm::Network>> {
        SourceVm::network(self.vm)
    }

    fn save_state(&mut self) -> Result<Vec<u8>, engine::vm::VmError> {
        self.saves += 1;
        let state = self.vm.save_state()?;
        // The rehearsal goes well; what counts does not.
        Ok(if self.saves == 2 { (self.state)(state) } else { state })
    }
}

#[test]
fn a_state_that_cannot_be_loaded_leaves_the_guest_running() {
    if !can_run_guests("again::a_state_that_cannot_be_loaded_leaves_the_guest_running") {
        return;
    }
    let mut vm = boot(32 << 20, 1, BUSY);
    let truncate: fn(Vec<u8>) -> Vec<u8> = |mut state| {
        state.truncate(state.len() / 2);
        state
    };
    for strategy in Strategy::ALL {
        let (mut acceptor, address) =
            "tcp://127.0.0.1:0".parse::<engine::transport::Address>().unwrap().listen().unwrap();
        let interrupt = engine::transport::Interrupt::default();
        let report = thread::scope(|scope| {
            let mut host = ferry::kvm_vm::KvmHost::default();
            let destination = scope.spawn(move || {
                engine::destination::receive(&mut host, &mut *acceptor, &interrupt, |_, _| ())
            });
            let mut spoilt = Spoilt { vm: &mut vm, state: truncate, saves: 0 };
            let attempt = Try::new(strategy);
            let report = engine::source::migrate(
                &mut spoilt,
                &*address.connector(),
                strategy,
                &attempt.options,
                &attempt.interrupt,
                &attempt.progress,
            );
            assert!(destination.join().expect("no panic").is_err(), "{strategy}");
            report
        });
        assert_eq!(report.outcome, Outcome::Failed, "{strategy}: {:?}", report.error);
        assert!(
            report.error.as_deref().unwrap_or_default().contains("load"),
            "{strategy}: {:?}",
            report.error
        );
        assert_oracle_clean(&vm, "it runs on");
    }
    moved(vm, Strategy::PreCopy, Options::default(), "after states that could not be loaded");
}
