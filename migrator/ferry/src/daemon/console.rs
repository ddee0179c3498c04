//! The guest's console: what it wrote last, for those who look, and those who look later.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use engine::vm::{CONSOLE_BYTES, ConsoleHistory};

/// The last of what a guest wrote to its console. Readers keep their own place and never make the guest wait: one that is
/// too slow misses what was dropped meanwhile.
#[derive(Debug)]
pub struct ConsoleLog {
    kept: Mutex<Kept>,
    written: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Bytes ever written: the place behind the last one kept.
    end: u64,
}

impl Default for ConsoleLog {
    fn default() -> ConsoleLog {
        // Memory that is there already: a history arrives while its guest is paused.
        let mut bytes = VecDeque::from(vec![0xff; CONSOLE_BYTES]);
        bytes.clear();
        ConsoleLog { kept: Mutex::new(Kept { bytes, end: 0 }), written: watch::Sender::new(0) }
    }
}

impl ConsoleLog {
    /// For the machine to write to.
    pub fn writer(self: &Arc<Self>) -> ConsoleWriter {
        ConsoleWriter(self.clone())
    }

    /// Told when something was written.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// What was written from `place` on, as far as it is kept, and the place behind it.
    pub fn read_from(&self, place: u64) -> (Vec<u8>, u64) {
        let kept = self.lock();
        let first = kept.end - kept.bytes.len() as u64;
        let skip = place.clamp(first, kept.end) - first;
        (kept.bytes.iter().skip(skip as usize).copied().collect(), kept.end)
    }

    /// Drops what was written so far.
    pub(super) fn forget(&self) {
        self.lock().bytes.clear();
    }

    fn write(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let last = &bytes[bytes.len().saturating_sub(CONSOLE_BYTES)..];
        let excess = (kept.bytes.len() + last.len()).saturating_sub(CONSOLE_BYTES);
        kept.bytes.drain(..excess);
        kept.bytes.extend(last);
        kept.end += bytes.len() as u64;
        let end = kept.end;
        drop(kept);
        self.written.send_replace(end);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It goes along with its guest.
impl ConsoleHistory for ConsoleLog {
    fn read_from(&self, place: u64) -> (Vec<u8>, u64) {
        self.read_from(place)
    }

    fn add(&self, bytes: &[u8]) {
        self.write(bytes);
    }
}

/// Writes to a [`ConsoleLog`]; never blocks.
#[derive(Debug)]
pub struct ConsoleWriter(Arc<ConsoleLog>);

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reader_gets_the_last_of_it_and_a_slow_one_a_gap() {
        let log = Arc::new(ConsoleLog::default());
        log.writer().write_all(b"hello").unwrap();
        assert_eq!(log.read_from(0), (b"hello".to_vec(), 5));
        assert_eq!(log.read_from(3), (b"lo".to_vec(), 5));
        assert_eq!(log.read_from(5), (Vec::new(), 5));
        log.writer().write_all(&[b'x'; CONSOLE_BYTES]).unwrap();
        let (bytes, end) = log.read_from(5);
        assert_eq!((bytes.len(), end), (CONSOLE_BYTES, 5 + CONSOLE_BYTES as u64));
        assert_eq!(log.read_from(0).0.len(), CONSOLE_BYTES);
        log.writer().write_all(&[b'y'; CONSOLE_BYTES + 7]).unwrap();
        assert_eq!(log.read_from(0), (vec![b'y'; CONSOLE_BYTES], end + CONSOLE_BYTES as u64 + 7));
    }

    #[test]
    fn entry_22_what_came_along_is_seen_first_and_forgotten_with_its_guest() {
        let log = Arc::new(ConsoleLog::default());
        ConsoleHistory::add(&*log, b"there ");
        log.writer().write_all(b"here").unwrap();
        assert_eq!(log.read_from(0), (b"there here".to_vec(), 10));
        log.forget();
        assert_eq!(log.read_from(0), (Vec::new(), 10));
        log.writer().write_all(b"next").unwrap();
        assert_eq!(log.read_from(0), (b"next".to_vec(), 14));
    }
}
