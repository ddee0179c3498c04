//! One migration between two simulated machines, and what must hold after it, however it went.

use std::{sync::Arc, thread, time::Duration};

use engine::{
    destination::{Arrival, EndNotice, ReceiveError, receive},
    options::Options,
    progress::Progress,
    report::{GuestEnd, Outcome, Report},
    sim::{FailingConnector, SimHost, SimVm, SimWorkload, Tally},
    source::migrate,
    strategy::Strategy,
    transport::{Interrupt, memory},
    vm::{SourceVm, VmDescription},
};

/// Pages of a simulated guest: small, so that a thousand seeds are quick, but several frames.
pub const PAGES: u64 = 700;

/// How a try is made.
pub struct Try {
    pub strategy: Strategy,
    pub options: Options,
    pub host: SimHost,
    pub tally: Arc<Tally>,
    pub interrupt: Interrupt,
    pub progress: Arc<Progress>,
    /// How the guest ends as soon as it runs at the destination.
    pub guest_end: Option<GuestEnd>,
}

impl Try {
    pub fn new(strategy: Strategy) -> Try {
        Try {
            strategy,
            options: Options::default(),
            host: SimHost::default(),
            tally: Tally::count_only(),
            interrupt: Interrupt::default(),
            progress: Arc::default(),
            guest_end: None,
        }
    }

    /// Migrates `vm` to a new host.
    pub fn run(mut self, vm: &mut dyn SourceVm) -> Tried {
        let (connector, acceptor) = memory::pair();
        let connector = FailingConnector::new(connector, &self.tally);
        let mut acceptor = FailingConnector::new(acceptor, &self.tally);
        let end = self.guest_end.take();
        let started = move |_: &VmDescription, notice: EndNotice| {
            if let Some(end) = end {
                notice.tell(end);
            }
        };
        thread::scope(|scope| {
            let destination =
                scope.spawn(move || receive(&mut self.host, &mut acceptor, &Interrupt::default(), started));
            let report =
                migrate(vm, &connector, self.strategy, &self.options, &self.interrupt, &self.progress);
            // A destination that never heard of the migration waits for one that cannot come now.
            drop(connector);
            Tried { report, destination: destination.join().expect("the destination does not panic") }
        })
    }
}

/// How it went.
pub struct Tried {
    pub report: Report,
    pub destination: Result<Arrival<SimVm>, ReceiveError<SimVm>>,
}

pub fn workload(seed: u64) -> SimWorkload {
    SimWorkload {
        seed,
        working_set: 40 + seed % 200,
        rate: None,
        zero_one_in: [0, 3, 10][(seed % 3) as usize],
        network: seed.is_multiple_of(2),
    }
}

pub fn boot(seed: u64) -> SimVm {
    SimVm::boot("sim", PAGES, workload(seed)).expect("memory for a small guest")
}

/// Asserts that every page of `vm` is as its guest last wrote it.
pub fn assert_memory_right(vm: &SimVm, context: &str) {
    let guest = vm.check().expect("a guest that does not wait for pages");
    assert_eq!(guest.errors, 0, "{context}: page {:?} is lost or stale", guest.first_error);
}

/// Asserts that every frame sent to the guest reaches it, at whichever host it came to, and that the network was told.
pub fn assert_no_frame_lost(source_sent: u64, arrived: &SimVm, context: &str) {
    // What is carried over after the start comes on a thread of its own.
    let has_all = || arrived.guest().is_some_and(|guest| guest.next_frame >= source_sent);
    for _ in 0..10_000 {
        if has_all() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let guest = arrived.guest().expect("a guest");
    assert_eq!((guest.next_frame, guest.frames_lost, guest.errors), (source_sent, 0, 0), "{context}");
    assert!(arrived.announcements() > 0, "{context}: nobody was told");
}

impl Tried {
    /// Asserts what must hold however it went: exactly one side runs the guest, with its memory
    /// right, or the outcome says why that cannot be known. Returns whichever machine has the guest.
    pub fn assert_one_guest(self, source: SimVm, context: &str) -> Option<SimVm> {
        let Tried { report, destination } = self;
        let context = format!(
            "{context}: {:?} ({:?}), destination {:?}",
            report.outcome,
            report.error,
            destination.as_ref().err()
        );
        assert!(!source.frames_ahead().0, "{context}: its frames go ahead for ever");
        match (report.outcome, destination) {
            (Outcome::Completed, Ok(mut arrival)) => {
                arrival.vm.await_first_steps();
                let has_network = source.frames_sent() > 0;
                assert_eq!(source.frames_ahead(), (false, has_network), "{context}");
                assert_eq!(arrival.vm.frames_ahead(), (false, has_network), "{context}");
                assert!(!source.is_running() && arrival.vm.is_running(), "{context}");
                assert_ne!(report.verified, Some(false), "{context}");
                assert_memory_right(&arrival.vm, &context);
                Some(arrival.vm)
            }
            (Outcome::Failed | Outcome::Cancelled, destination) => {
                assert!(source.is_running(), "{context}");
                assert!(
                    !matches!(destination, Ok(_) | Err(ReceiveError::Interrupted { .. })),
                    "{context}: two guests"
                );
                assert_memory_right(&source, &context);
                // What came while it stood still was kept for it.
                let guest = source.guest().expect("a guest");
                assert_eq!((guest.next_frame, guest.frames_lost), (source.frames_sent(), 0), "{context}");
                Some(source)
            }
            // Documented: the answer to Start was lost. The source keeps the guest, paused and whole.
            (Outcome::Unknown, destination) => {
                assert!(!source.is_running(), "{context}");
                assert_memory_right(&source, &context);
                destination.ok().map(|arrival| {
                    assert_memory_right(&arrival.vm, &context);
                    arrival.vm
                })
            }
            // Documented: the guest runs there; this side may not have heard that all pages came.
            (Outcome::Interrupted, destination) => {
                assert!(!source.is_running(), "{context}");
                match destination {
                    Ok(arrival) => {
                        assert_memory_right(&arrival.vm, &context);
                        Some(arrival.vm)
                    }
                    Err(ReceiveError::Interrupted { missing_pages, .. }) => {
                        assert!(missing_pages > 0, "{context}");
                        None
                    }
                    Err(_) => panic!("{context}: no guest"),
                }
            }
            (Outcome::Ended, destination) => {
                assert!(!source.is_running(), "{context}");
                assert!(matches!(destination, Err(ReceiveError::Ended { .. })), "{context}");
                None
            }
            (Outcome::Completed, Err(_)) => panic!("{context}: no guest"),
        }
    }
}
