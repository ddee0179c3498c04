//! Telling the network where a guest is now, and telling it again.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use super::Network;
use crate::report::in_words;

/// A switch may miss an announcement, so it is made again after each of these.
const AGAIN_AFTER: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(150),
    Duration::from_millis(200),
];

/// Announces a guest when it runs here. Its thread is made ready before that, and ends by itself: after the last
/// announcement, or with this if there was none.
pub struct Announcer {
    network: Arc<dyn Network>,
    announced: Option<Sender<()>>,
    was_announced: AtomicBool,
    thread: Option<JoinHandle<()>>,
}

impl Announcer {
    /// Makes it ready. Nothing is said yet.
    pub fn spawn(network: Arc<dyn Network>) -> io::Result<Announcer> {
        let (announced, first) = channel();
        let announces = network.clone();
        let announce = move || announce_again(&*announces, &first);
        let thread = Some(Builder::new().name("announcer".to_owned()).spawn(announce)?);
        Ok(Announcer { network, announced: Some(announced), was_announced: AtomicBool::new(false), thread })
    }

    /// The guest runs here.
    pub fn announce(&self) {
        announce(&*self.network);
        // If the thread is gone, it has panicked; once is better than never.
        self.was_announced.store(true, Ordering::Release);
        if let Some(announced) = &self.announced {
            announced.send(()).ok();
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        drop(self.announced.take());
        // It has the network, which the next try needs. Where the guest runs, it goes on for a moment.
        if let Some(thread) = self.thread.take()
            && !self.was_announced.load(Ordering::Acquire)
        {
            // If it panicked it has said so.
            thread.join().ok();
        }
    }
}

/// A network that does not hear of it learns by the guest's own frames.
fn announce(network: &dyn Network) {
    if let Err(error) = network.announce() {
        tracing::warn!(error = in_words(&error), "the guest's new place was not announced");
    }
}

fn announce_again(network: &dyn Network, first: &Receiver<()>) {
    if first.recv().is_err() {
        // It never ran here.
        return;
    }
    for pause in AGAIN_AFTER {
        // The sender goes when the migration is over, which matters nothing here.
        match first.recv_timeout(pause) {
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
        }
        announce(network);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread, time::Instant};

    use super::*;
    use crate::vm::VmError;

    /// Counts what is said of a guest.
    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Network for Counts {
        fn take_frame(&self, _: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
            Ok(None)
        }

        fn wait(&self, at_most: Duration) {
            thread::sleep(at_most);
        }

        fn inject(&self, _: u16, _: &[u8]) -> Result<(), VmError> {
            Ok(())
        }

        fn announce(&self) -> Result<(), VmError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        fn learning_time(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// Waits for the thread's end: until then it has the network, too.
    fn ended(network: &Arc<Counts>) -> usize {
        let begin = Instant::now();
        while Arc::strong_count(network) > 1 {
            assert!(begin.elapsed() < Duration::from_secs(60), "the announcer does not end");
            thread::sleep(Duration::from_millis(5));
        }
        network.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_guest_is_announced_at_once_and_four_times_more_also_if_nobody_keeps_the_announcer() {
        let network = Arc::new(Counts::default());
        let announcer = Announcer::spawn(network.clone()).expect("a thread");
        announcer.announce();
        assert!(network.0.load(Ordering::SeqCst) >= 1, "at once");
        drop(announcer);
        assert_eq!(ended(&network), 1 + AGAIN_AFTER.len());
    }

    #[test]
    fn a_guest_that_never_ran_here_is_not() {
        let network = Arc::new(Counts::default());
        drop(Announcer::spawn(network.clone()).expect("a thread"));
        assert_eq!(ended(&network), 0);
    }
}
