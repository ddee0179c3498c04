//! Moving a real guest, over TCP, to another machine in this process.

use std::{sync::Arc, thread, time::Duration};

use engine::{
    destination::{ReceiveError, receive},
    options::Options,
    progress::Progress,
    report::{Outcome, Report},
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
    vm::SourceVm,
};
use ferry::kvm_vm::{KvmHost, KvmVm};

use crate::guest::assert_oracle_clean;

/// One try to move a guest.
pub struct Try {
    /// How to move it.
    pub strategy: Strategy,
    /// Its options.
    pub options: Options,
    /// Raise it to cancel.
    pub interrupt: Interrupt,
    /// How far it is.
    pub progress: Arc<Progress>,
}

impl Try {
    /// With options as they are by default.
    pub fn new(strategy: Strategy) -> Try {
        let (interrupt, progress) = (Interrupt::default(), Arc::default());
        Try { strategy, options: Options::default(), interrupt, progress }
    }

    /// Moves the guest, or tries to. The machine that came of it is the destination's.
    ///
    /// # Panics
    /// If there is no port to listen on.
    pub fn run(self, source: &mut dyn SourceVm) -> (Report, Result<KvmVm, ReceiveError<KvmVm>>) {
        self.run_with(source, KvmHost::default(), |destination| destination())
    }

    /// As [`Try::run`], to a machine that `host` makes; `enter` calls what it is given, wherever the destination is.
    ///
    /// # Panics
    /// If there is no port to listen on.
    pub fn run_with(
        self,
        source: &mut dyn SourceVm,
        mut host: KvmHost,
        enter: impl FnOnce(Box<dyn FnOnce() + Send + '_>) + Send,
    ) -> (Report, Result<KvmVm, ReceiveError<KvmVm>>) {
        let address: Address = "tcp://127.0.0.1:0".parse().expect("an address");
        let (mut acceptor, address) = address.listen().expect("a free port");
        let stop = Interrupt::default();
        thread::scope(|scope| {
            let destination = scope.spawn(|| {
                let mut arrived = None;
                enter(Box::new(|| {
                    let received = receive(&mut host, &mut *acceptor, &stop, |_, _| ());
                    arrived = Some(received.map(|arrival| arrival.vm));
                }));
                arrived.expect("`enter` calls what it is given")
            });
            let connector = address.connector();
            let report =
                migrate(source, &*connector, self.strategy, &self.options, &self.interrupt, &self.progress);
            (report, destination.join().expect("the destination does not panic"))
        })
    }
}

/// Moves a guest that must arrive whole, and returns its new machine.
///
/// # Panics
/// If it does not, or if its memory is not right.
pub fn moved(mut source: KvmVm, strategy: Strategy, options: Options, context: &str) -> KvmVm {
    // What is tested is where pages end up: a busy host must not make pre-copy give up.
    let downtime_limit = match strategy {
        // Shorter than a switchover: what is still dirty is missing when the guest starts, and stale until it comes.
        Strategy::Hybrid => Duration::from_nanos(1),
        _ => Duration::from_secs(10),
    };
    let options = Options { downtime_limit, ..options };
    let attempt = Try { options, ..Try::new(strategy) };
    let (report, arrived) = attempt.run(&mut source);
    assert_eq!(report.outcome, Outcome::Completed, "{context}: {:?}", report.error);
    assert_ne!(report.verified, Some(false), "{context}");
    let vm = arrived.unwrap_or_else(|error| panic!("{context}: {error}"));
    drop(source);
    assert_oracle_clean(&vm, context);
    vm
}
