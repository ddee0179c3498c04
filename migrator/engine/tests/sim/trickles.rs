//! Issue 12, entry 10: a destination that says a byte now and then. Every message has a deadline in all, a timeout is
//! heeded in the middle of one, and the guest runs on at the source.

use std::{
    io,
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

use crate::one_guest::{assert_memory_right, boot};
use engine::{
    destination::receive,
    options::Options,
    pages::RunBytes,
    report::{Outcome, Report},
    sim::SimHost,
    source::migrate,
    strategy::Strategy,
    transport::{Acceptor, Interrupt, Wire, memory},
};

/// Between two bytes.
const PAUSE: Duration = Duration::from_secs(1);
/// Far more than any deadline that is under test here, and less than a message would take.
const BOUND: Duration = Duration::from_secs(11);

/// What a destination says on its control link, in order.
const GREETING: u32 = 0;
const ACCEPTED: u32 = 1;
const PROBE: u32 = 2;
const LOADED: u32 = 7;

/// Accepts links, on the first of which message `at` and all after it trickle.
struct Trickling<A> {
    inner: A,
    at: Option<u32>,
}

impl<A: Acceptor> Acceptor for Trickling<A> {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let inner = self.inner.accept(interrupt, timeout)?;
        Ok(match self.at.take() {
            Some(left) => Box::new(TricklingWire { inner, left }),
            None => inner,
        })
    }
}

struct TricklingWire {
    inner: Box<dyn Wire>,
    /// Messages until it trickles.
    left: u32,
}

impl Wire for TricklingWire {
    fn send_parts(&mut self, head: &[u8], payload: &[RunBytes<'_>], tail: &[u8]) -> io::Result<()> {
        if self.left > 0 {
            self.left -= 1;
            return self.inner.send_parts(head, payload, tail);
        }
        // Its own deadline would end it sooner.
        self.inner.set_deadline(None);
        head.iter().chain(tail).try_for_each(|&byte| {
            self.inner.send(&[byte])?;
            thread::sleep(PAUSE);
            Ok(())
        })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.receive(buffer)
    }

    fn receive_rest(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.receive_rest(buffer)
    }

    fn receive_runs(&mut self, runs: &[RunBytes<'_>]) -> io::Result<()> {
        self.inner.receive_runs(runs)
    }

    fn set_patience(&mut self, patience: Option<Duration>) {
        self.inner.set_patience(patience);
    }

    fn set_deadline(&mut self, left: Option<Duration>) {
        self.inner.set_deadline(left);
    }

    fn set_peer_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_peer_timeout(timeout);
    }

    fn set_interrupt(&mut self, interrupt: &Interrupt) {
        self.inner.set_interrupt(interrupt);
    }

    fn ignore_interrupt(&mut self) {
        self.inner.ignore_interrupt();
    }

    fn hang_up(&self) {
        self.inner.hang_up();
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Migrates to a destination whose message `at` trickles. The guest must run on, and soon.
fn migrate_to_trickling(at: u32, options: &Options) -> Report {
    let (connector, acceptor) = memory::pair();
    let mut acceptor = Trickling { inner: acceptor, at: Some(at) };
    let mut source = boot(1);
    thread::scope(|scope| {
        scope
            .spawn(move || receive(&mut SimHost::default(), &mut acceptor, &Interrupt::default(), |_, _| ()));
        let begin = Instant::now();
        let (interrupt, progress) = (Interrupt::default(), std::sync::Arc::default());
        let report = migrate(&mut source, &connector, Strategy::PreCopy, options, &interrupt, &progress);
        assert!(begin.elapsed() < BOUND, "message {at}: {:?}", begin.elapsed());
        assert!(source.is_running(), "message {at}");
        assert_memory_right(&source, "stayed");
        assert_eq!(report.outcome, Outcome::Failed, "message {at}: {:?}", report.error);
        drop(connector);
        report
    })
}

#[test]
fn entry_10_a_message_has_a_deadline_from_its_first_byte() {
    let report = migrate_to_trickling(LOADED, &Options::default());
    let error = report.error.expect("a failed migration says why");
    assert!(error.contains("the rest of a message") && error.contains("timed out"), "{error}");
}

#[test]
fn entry_10_a_timeout_is_heeded_in_the_middle_of_any_message() {
    let options = Options { timeout: Some(Duration::from_millis(400)), ..Options::default() };
    for at in [GREETING, ACCEPTED, PROBE, LOADED] {
        let begin = Instant::now();
        let error = migrate_to_trickling(at, &options).error.expect("a failed migration says why");
        assert!(error.contains("--timeout"), "message {at}: {error}");
        // The destination notices at its next byte.
        assert!(begin.elapsed() < BOUND / 2, "message {at}: {:?}", begin.elapsed());
    }
}
