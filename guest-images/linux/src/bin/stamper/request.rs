//! Requests from the guest's shell or its HTTP service, over a unix socket: a word, answered by a line.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::ExitCode,
    sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
    thread,
    time::Duration,
};

use crate::worker::Shared;

const SOCKET: &str = "/run/stamper.sock";

/// How often it is looked whether all threads have finished.
const LOOK: Duration = Duration::from_millis(10);

pub fn listen() -> Result<UnixListener, String> {
    // Left behind by one that was killed.
    fs::remove_file(SOCKET).ok();
    UnixListener::bind(SOCKET).map_err(|error| format!("listen at {SOCKET}: {error}"))
}

/// Answers one request after the other, for ever.
pub fn answer(listener: &UnixListener, shared: &Shared, threads: u64) {
    for stream in listener.incoming().flatten() {
        // Who has hung up has no use for the answer.
        answer_one(stream, shared, threads).ok();
    }
}

fn answer_one(mut stream: UnixStream, shared: &Shared, threads: u64) -> std::io::Result<()> {
    let mut word = String::new();
    BufReader::new((&stream).take(64)).read_line(&mut word)?;
    while shared.ready.load(Acquire) < threads {
        thread::sleep(LOOK);
    }
    let checked_before = shared.checked.load(Relaxed);
    if word.trim() == "check" {
        shared.finished.store(0, Release);
        shared.asked.fetch_add(1, AcqRel);
        while shared.finished.load(Acquire) < threads {
            thread::sleep(LOOK);
        }
    }
    let checked = shared.checked.load(Relaxed) - checked_before;
    writeln!(
        stream,
        "{checked} pages checked, {} errors, clock went back {} times, {} pages written",
        shared.errors.load(Relaxed),
        shared.clock_went_back.load(Relaxed),
        shared.written.load(Relaxed),
    )
}

/// Asks the stamper that runs here, and prints what it answers.
pub fn ask(word: &str) -> Result<ExitCode, String> {
    let no_stamper = |error| format!("none runs here ({SOCKET}: {error})");
    let mut stream = UnixStream::connect(SOCKET).map_err(no_stamper)?;
    writeln!(stream, "{word}").map_err(no_stamper)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(no_stamper)?;
    print!("{line}");
    let is_clean = line.contains(" 0 errors, clock went back 0 times");
    Ok(ExitCode::from(u8::from(!is_clean)))
}
