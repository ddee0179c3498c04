//! QMP: QEMU's control socket, as far as the harness needs it.
//!
//! ```text
//! ◄─ {"QMP": {"version": …}}                     once
//! ─► {"execute": "qmp_capabilities", "id": 1}
//! ◄─ {"return": {}, "id": 1}
//! ◄─ {"event": "RESUME", "timestamp": {…}}       at any time, between answers too
//! ```
//! One JSON object a line. Blocking, and nothing is waited for without a bound. Events carry the host's time of day in
//! microseconds, so those of two QEMUs on one host can be compared.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::{Value, json};
use thiserror::Error;

/// How long an answer is waited for: what takes long in QEMU answers at once and goes on in the background.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any line of QEMU's has.
const MAX_LINE: usize = 1 << 20;

/// Why QEMU could not be spoken to.
#[derive(Debug, Error)]
pub enum QmpError {
    /// Its end of the socket is closed: it ended.
    #[error("QEMU closed its control socket")]
    Gone,
    /// It does not answer.
    #[error("QEMU did not answer {command:?} within {seconds} s")]
    Silent {
        /// What it was asked.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It will not, or cannot.
    #[error("QEMU refused {command:?}: {words}")]
    Refused {
        /// What it was asked.
        command: String,
        /// Its words.
        words: String,
    },
    /// It says something that is no QMP.
    #[error("QEMU's control socket says {line:?}, which is not QMP")]
    NotQmp {
        /// The beginning of what it says.
        line: String,
    },
    /// The socket itself.
    #[error("speak to QEMU by its control socket")]
    Io(#[from] io::Error),
}

/// What QEMU says unasked.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Such as `STOP`, `RESUME`, `MIGRATION`.
    pub name: String,
    /// What belongs to it.
    pub data: Value,
    /// When, by the host's time of day, in microseconds since 1970.
    pub at_us: u64,
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Greeting { version: String },
    Answer(Result<Value, String>),
    Event(Event),
}

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    /// What was received of a line that is not complete.
    partial: Vec<u8>,
    answers: VecDeque<Result<Value, String>>,
    events: VecDeque<Event>,
    version: Option<String>,
}

impl Qmp {
    /// Connects once; QEMU makes its socket some time after its start.
    ///
    /// # Errors
    /// If nobody listens there, or it is no QMP.
    pub fn connect(socket: &Path) -> Result<Qmp, QmpError> {
        Qmp::over(UnixStream::connect(socket)?)
    }

    fn over(stream: UnixStream) -> Result<Qmp, QmpError> {
        stream.set_nonblocking(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (answers, events) = (VecDeque::new(), VecDeque::new());
        let mut qmp = Qmp { stream, partial: Vec::new(), answers, events, version: None };
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// To nobody any more.
    #[cfg(test)]
    pub fn closed() -> Qmp {
        let (stream, _) = UnixStream::pair().expect("a pair of sockets");
        stream.set_nonblocking(true).expect("any socket can be non-blocking");
        Qmp { stream, partial: Vec::new(), answers: VecDeque::new(), events: VecDeque::new(), version: None }
    }

    /// QEMU's version, as it greeted.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or("unknown")
    }

    /// Has a command done, and waits for the answer.
    ///
    /// # Errors
    /// If QEMU refuses it, with QEMU's words; or has gone, or does not answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command });
        if !arguments.is_null() {
            line["arguments"] = arguments;
        }
        self.stream.write_all(format!("{line}\n").as_bytes()).map_err(gone)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.answers.pop_front() {
                Some(Ok(value)) => return Ok(value),
                Some(Err(words)) => return Err(QmpError::Refused { command: command.to_owned(), words }),
                None if Instant::now() > deadline => {
                    return Err(QmpError::Silent {
                        command: command.to_owned(),
                        seconds: PATIENCE.as_secs(),
                    });
                }
                None => wait_for_any([self], Duration::from_millis(100)).map_err(|(_, error)| error)?,
            }
        }
    }

    /// The next thing it said unasked, if it did.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Reads what is there, without waiting.
    fn receive(&mut self) -> Result<(), QmpError> {
        let (mut buffer, mut received) = ([0; 16 << 10], false);
        loop {
            match self.stream.read(&mut buffer) {
                // What it said before comes first; that it is gone is found again.
                Ok(0) if received => return Ok(()),
                Ok(0) => return Err(QmpError::Gone),
                Ok(count) => {
                    received = true;
                    self.take(&buffer[..count])?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(gone(error)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), QmpError> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            match parse(&line)? {
                Message::Greeting { version } => self.version = Some(version),
                Message::Answer(answer) => self.answers.push_back(answer),
                Message::Event(event) => self.events.push_back(event),
            }
        }
        if self.partial.len() > MAX_LINE {
            return Err(not_qmp(&self.partial));
        }
        Ok(())
    }
}

/// Waits until one of them says something, but no longer than so long, and takes it.
///
/// # Errors
/// If one of them, and which, has gone, or says what is no QMP.
pub fn wait_for_any<const N: usize>(
    mut sides: [&mut Qmp; N],
    patience: Duration,
) -> Result<(), (usize, QmpError)> {
    {
        let mut sockets = sides.each_ref().map(|side| PollFd::new(&side.stream, PollFlags::IN));
        let patience = Timespec::try_from(patience).expect("what is waited for in one go is short");
        match poll(&mut sockets, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err((0, io::Error::from(error).into())),
        }
    }
    let mut numbered = sides.iter_mut().enumerate();
    numbered.try_for_each(|(number, side)| side.receive().map_err(|error| (number, error)))
}

fn gone(error: io::Error) -> QmpError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => QmpError::Gone,
        _ => error.into(),
    }
}

fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let value: Value = serde_json::from_slice(line).map_err(|_| not_qmp(line))?;
    if let Some(greeting) = value.get("QMP") {
        let numbers = &greeting["version"]["qemu"];
        let numbers = ["major", "minor", "micro"].map(|part| numbers[part].as_u64().unwrap_or(0).to_string());
        return Ok(Message::Greeting { version: numbers.join(".") });
    }
    if let Some(name) = value["event"].as_str() {
        let time = &value["timestamp"];
        // QEMU says -1 where it has no clock.
        let part = |name: &str| time[name].as_i64().and_then(|part| u64::try_from(part).ok()).unwrap_or(0);
        let at_us = part("seconds").saturating_mul(1_000_000).saturating_add(part("microseconds"));
        return Ok(Message::Event(Event { name: name.to_owned(), data: value["data"].clone(), at_us }));
    }
    if let Some(error) = value.get("error") {
        let words = error["desc"].as_str().unwrap_or("it does not say why");
        return Ok(Message::Answer(Err(words.to_owned())));
    }
    value.get("return").map(|value| Message::Answer(Ok(value.clone()))).ok_or_else(|| not_qmp(line))
}

fn not_qmp(line: &[u8]) -> QmpError {
    let line = String::from_utf8_lossy(&line[..line.len().min(80)]);
    QmpError::NotQmp { line: line.trim_end().to_owned() }
}

#[cfg(test)]
mod tests;
