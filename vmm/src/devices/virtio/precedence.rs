//! A device's thread can be asked to go ahead of others.
//!
//! A frame is handled in microseconds, but a thread that wakes where a vCPU spins, or where much is being copied, waits for
//! a whole tick of the host once it has had its share: 4 ms, in which the guest's clients wait. Ahead of all that share by
//! weight it does not. A guest decides how much there is to do, and must not get a processor by it: what its device takes
//! ahead of others is debited, and a device without credit shares like everyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// One part in so many of a processor is what a device's thread gets ahead of others in the long run.
const SHARE: u32 = 4;
/// What it may take at once, after a rest.
const FULL: Duration = Duration::from_millis(10);

/// The precedence of the calling thread.
pub(super) struct Precedence {
    /// Whether somebody wants it to have any; nobody ever does for most devices.
    wanted: Option<Arc<AtomicBool>>,
    account: Option<Account>,
}

impl Precedence {
    /// Of a thread that does little at a time, and that goes ahead of others while `wanted` says so.
    pub(super) fn new(wanted: Option<Arc<AtomicBool>>) -> Precedence {
        // Who wakes goes before those that have been at it for a while, and gets no more for it.
        linux_host::scheduling::set_slice(linux_host::scheduling::SHORTEST_SLICE);
        Precedence { wanted, account: None }
    }

    /// Looks at what is wanted, and at what the calling thread has done since it was last called: goes ahead, or back.
    pub(super) fn settle(&mut self) {
        let is_wanted = self.wanted.as_ref().is_some_and(|wanted| wanted.load(Ordering::Relaxed));
        if is_wanted {
            match &mut self.account {
                None => {
                    linux_host::scheduling::go_first();
                    self.account = Some(Account::open());
                }
                Some(account) => account.settle(),
            }
        } else if self.account.take().is_some() {
            linux_host::scheduling::step_back();
        }
    }
}

/// What a thread takes ahead of others.
struct Account {
    credit: Credit,
    seen: Instant,
    worked: Duration,
}

impl Account {
    fn open() -> Account {
        Account { credit: Credit::full(), seen: Instant::now(), worked: processor_time() }
    }

    fn settle(&mut self) {
        let (now, worked) = (Instant::now(), processor_time());
        let was_ahead = self.credit.is_ahead;
        self.credit.settle(now - self.seen, worked.saturating_sub(self.worked));
        (self.seen, self.worked) = (now, worked);
        match (was_ahead, self.credit.is_ahead) {
            (true, false) => linux_host::scheduling::step_back(),
            (false, true) => _ = linux_host::scheduling::go_first(),
            _ => {}
        }
    }
}

/// What the calling thread has had of processors.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// How much of a processor may still be taken ahead of others.
struct Credit {
    left: Duration,
    is_ahead: bool,
}

impl Credit {
    fn full() -> Credit {
        Credit { left: FULL, is_ahead: true }
    }

    /// Credits `elapsed` and debits `worked`, the part of it that was spent working. Precedence is given up when nothing is
    /// left, and taken again when half is.
    fn settle(&mut self, elapsed: Duration, worked: Duration) {
        self.left = (self.left + elapsed / SHARE).min(FULL).saturating_sub(worked);
        self.is_ahead = self.left >= FULL / 2 || self.is_ahead && !self.left.is_zero();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_micros(50);

    /// What of a second of such turns the thread worked ahead of others, a rest after each.
    fn ahead_in_a_second(credit: &mut Credit, rest: Duration) -> Duration {
        let (mut time, mut ahead) = (Duration::ZERO, Duration::ZERO);
        while time < Duration::from_secs(1) {
            if credit.is_ahead {
                ahead += TURN;
            }
            credit.settle(TURN + rest, TURN);
            time += TURN + rest;
        }
        ahead
    }

    #[test]
    fn who_does_little_is_always_ahead() {
        let mut credit = Credit::full();
        // A fifth of a processor.
        let ahead = ahead_in_a_second(&mut credit, TURN * 4);
        assert_eq!(ahead, Duration::from_millis(200));
        assert!(credit.is_ahead);
    }

    #[test]
    fn who_never_rests_has_its_share_ahead_and_no_more() {
        let mut credit = Credit::full();
        let ahead = ahead_in_a_second(&mut credit, Duration::ZERO);
        assert!(ahead <= Duration::from_secs(1) / SHARE + FULL * 2, "{ahead:?}");
    }

    #[test]
    fn who_has_rested_is_ahead_again() {
        let mut credit = Credit::full();
        credit.settle(FULL * 2, FULL * 2);
        assert!(!credit.is_ahead);
        credit.settle(FULL * SHARE / 4, Duration::ZERO);
        assert!(!credit.is_ahead, "a quarter is left");
        credit.settle(FULL * SHARE / 4, Duration::ZERO);
        assert!(credit.is_ahead, "half is left");
    }

    #[test]
    fn a_thread_that_never_waits_gives_precedence_up() {
        let is_ahead = std::thread::spawn(|| {
            let mut precedence = Precedence::new(Some(Arc::new(AtomicBool::new(true))));
            precedence.settle();
            let begin = Instant::now();
            let is_ahead = |precedence: &Precedence| precedence.account.as_ref().unwrap().credit.is_ahead;
            while is_ahead(&precedence) && begin.elapsed() < Duration::from_secs(60) {
                precedence.settle();
            }
            is_ahead(&precedence)
        });
        assert!(!is_ahead.join().unwrap());
    }

    #[test]
    fn precedence_ends_when_it_is_wanted_no_more() {
        let (first, after) = std::thread::spawn(|| {
            let wanted = Arc::new(AtomicBool::new(true));
            let mut precedence = Precedence::new(Some(Arc::clone(&wanted)));
            // SAFETY: a call about the calling thread.
            let policy = || unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            precedence.settle();
            let first = policy();
            wanted.store(false, Ordering::Relaxed);
            precedence.settle();
            (first, policy())
        })
        .join()
        .unwrap();
        assert!(first == libc::SCHED_FIFO || first == after, "where it is not permitted nothing changes");
        assert_eq!(after, libc::SCHED_OTHER);
    }
}
