//! Commands in a host, by the agent that runs there.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::wire::{self, Kind, MAX_BYTES, Message};

/// How often a host's clock is read before it is set.
const CLOCK_READINGS: u32 = 8;

/// What the quickest reading should take at most: so much the hosts' clocks may differ. Where others use the processors it
/// takes luck, and so more readings, up to a limit.
const GOOD_CLOCK_READING: Duration = Duration::from_millis(10);
const MOST_CLOCK_READINGS: u32 = 200;

/// How long one reading may take.
const CLOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The host is gone, or was never there.
    #[error("{host} is down: it cannot run `{command}`")]
    Down {
        /// Which.
        host: String,
        /// What it was asked.
        command: String,
    },
    /// It took too long, and was killed with what it had started.
    #[error("`{command}` on {host} did not end within {limit:?}; it printed: {printed}")]
    TooLong {
        /// Where.
        host: String,
        /// What.
        command: String,
        /// How long it was waited for.
        limit: Duration,
        /// What it had printed, on both streams.
        printed: String,
    },
}

/// How a command ended, and what it printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; negative: the signal that ended it.
    pub status: i32,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it printed to standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// What it printed, as text, without white space around it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// What it printed to standard error, as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    fn take(&mut self, message: Message) {
        match message.kind {
            Kind::Stdout => self.stdout.extend(message.bytes),
            Kind::Stderr => self.stderr.extend(message.bytes),
            _ => self.status = message.bytes.try_into().map_or(i32::MIN, i32::from_le_bytes),
        }
    }
}

type Waiting = Arc<Mutex<Option<HashMap<u32, Sender<Message>>>>>;

/// The agent of one host, from outside.
pub struct Agent {
    host: String,
    port: Mutex<(UnixStream, u32)>,
    /// Who waits for the messages of a command; `None` once the host is gone.
    waiting: Waiting,
}

impl Agent {
    /// Speaks to the agent over `port`, once it says that its host is up.
    ///
    /// # Errors
    /// If it says nothing within `patience`.
    pub(super) fn connect(host: &str, port: UnixStream, patience: Duration) -> io::Result<Agent> {
        let mut input = port.try_clone()?;
        input.set_read_timeout(Some(patience))?;
        while wire::read(&mut input)?.kind != Kind::Ready {}
        input.set_read_timeout(None)?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let others = Arc::clone(&waiting);
        thread::Builder::new().name(format!("agent of {host}")).spawn(move || {
            while let Ok(message) = wire::read(&mut input) {
                let waiting = lock(&others);
                if let Some(sender) = waiting.as_ref().and_then(|waiting| waiting.get(&message.id)) {
                    // Who has stopped waiting does not want to know.
                    sender.send(message).ok();
                }
            }
            // Everybody who waits learns it by the end of their channel.
            lock(&others).take();
        })?;
        Ok(Agent { host: host.to_owned(), port: Mutex::new((port, 0)), waiting })
    }

    /// Starts a command.
    pub(super) fn start(&self, command: &str) -> Result<Running<'_>, CommandError> {
        self.open(Kind::Run, command.as_bytes(), command)
    }

    /// Sends a message that is answered, under a number of its own.
    fn open(&self, kind: Kind, bytes: &[u8], command: &str) -> Result<Running<'_>, CommandError> {
        let down = || CommandError::Down { host: self.host.clone(), command: command.to_owned() };
        let (sender, messages) = channel();
        let id = {
            let mut port = lock(&self.port);
            port.1 += 1;
            lock(&self.waiting).as_mut().ok_or_else(down)?.insert(port.1, sender);
            let id = port.1;
            wire::write(&mut port.0, kind, id, bytes).map_err(|_| down())?;
            id
        };
        Ok(Running { agent: self, id, command: command.to_owned(), messages })
    }

    /// Sets the host's wall clock by this machine's, as well as the port's delay lets it.
    pub(super) fn set_clock(&self) -> Result<(), CommandError> {
        let down = || CommandError::Down { host: self.host.clone(), command: "set the clock".to_owned() };
        let mut best: Option<(i64, i64)> = None;
        for reading in 0..MOST_CLOCK_READINGS {
            let is_good = best.is_some_and(|(taken, _)| taken < GOOD_CLOCK_READING.as_nanos() as i64);
            if reading >= CLOCK_READINGS && is_good {
                break;
            }
            let asked = self.open(Kind::Clock, &[], "read the clock")?;
            let before = unix_nanoseconds();
            let answer = asked.messages.recv_timeout(CLOCK_PATIENCE).map_err(|_| down())?;
            let after = unix_nanoseconds();
            let there = i64::from_le_bytes(answer.bytes.try_into().map_err(|_| down())?);
            let reading = (after - before, before + (after - before) / 2 - there);
            // Of a reading that took less time, less is unknown.
            best = Some(best.map_or(reading, |best| best.min(reading)));
        }
        let (_, behind) = best.expect("it was read");
        self.send(Kind::MoveClock, 0, &behind.to_le_bytes()).map_err(|_| down())
    }

    fn send(&self, kind: Kind, id: u32, bytes: &[u8]) -> io::Result<()> {
        wire::write(&mut lock(&self.port).0, kind, id, bytes)
    }
}

/// A command under way. Dropping it leaves it running.
pub struct Running<'a> {
    agent: &'a Agent,
    id: u32,
    command: String,
    messages: Receiver<Message>,
}

impl Running<'_> {
    /// Gives it `input`, and no more after that.
    ///
    /// # Errors
    /// If the host is down.
    pub fn feed(&self, input: &[u8]) -> Result<(), CommandError> {
        let pieces = input.chunks(MAX_BYTES).map(|piece| (Kind::Input, piece));
        for (kind, bytes) in pieces.chain([(Kind::EndOfInput, &[][..])]) {
            self.agent.send(kind, self.id, bytes).map_err(|_| self.down())?;
        }
        Ok(())
    }

    /// Kills it and what it started.
    pub fn kill(&self) {
        // A host that is down runs nothing.
        self.agent.send(Kind::Kill, self.id, &[]).ok();
    }

    /// Waits for its end; kills it after `limit`.
    ///
    /// # Errors
    /// [`CommandError`]
    pub fn wait(self, limit: Duration) -> Result<Output, CommandError> {
        let deadline = Instant::now() + limit;
        let mut output = Output::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) => {
                    let is_end = message.kind == Kind::Ended;
                    output.take(message);
                    if is_end {
                        return Ok(output);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.down()),
                Err(RecvTimeoutError::Timeout) => {
                    self.kill();
                    let printed = format!("{} {}", output.text(), output.error_text());
                    let (host, command) = (self.agent.host.clone(), self.command.clone());
                    return Err(CommandError::TooLong { host, command, limit, printed });
                }
            }
        }
    }

    fn down(&self) -> CommandError {
        CommandError::Down { host: self.agent.host.clone(), command: self.command.clone() }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.agent.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// This machine's wall clock.
fn unix_nanoseconds() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks is ever half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
