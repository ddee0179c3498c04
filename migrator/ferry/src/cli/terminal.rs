//! A guest's console on this terminal.

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context;

use super::{
    output::tell,
    raw_terminal::{RawTerminal, await_input, discard_input, discard_unread},
};
use crate::daemon::Daemon;

/// Ctrl-]
const LEAVE: u8 = 0x1d;

/// How a session at a console ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The user typed Ctrl-].
    ByUser,
    /// The other end closed it.
    ByGuest,
}

/// Shows the console at `socket` here, until the user leaves or it ends.
pub fn attach(socket: &Path) -> anyhow::Result<Left> {
    let console = connect(socket)?;
    let terminal = RawTerminal::enter().context("set up the terminal")?;
    let input = console.try_clone()?;
    let (sender, left) = std::sync::mpsc::channel();
    let by_user = sender.clone();
    // Left behind when the console ends first: nobody can wake a thread that waits for a key.
    thread::spawn(move || {
        if copy_input(input) == Some(Left::ByUser) {
            by_user.send(Left::ByUser).ok();
        }
    });
    thread::spawn(move || {
        copy_output(console);
        sender.send(Left::ByGuest).ok();
    });
    let left = left.recv().unwrap_or(Left::ByGuest);
    drop(terminal);
    Ok(left)
}

/// The terminal's attachment to this process's own guest.
pub struct Attached {
    console: UnixStream,
    output: Option<thread::JoinHandle<()>>,
    terminal: Arc<Mutex<Option<RawTerminal>>>,
}

/// Shows the console of this process's own VM here; Ctrl-] stops it.
pub fn attach_own(socket: &Path, daemon: &Arc<Daemon>) -> anyhow::Result<Attached> {
    let console = connect(socket)?;
    let terminal = RawTerminal::enter().context("set up the terminal")?;
    if terminal.is_some() {
        tell!("Ctrl-] stops it.");
    }
    let (input, output) = (console.try_clone()?, console.try_clone()?);
    let daemon = daemon.clone();
    thread::spawn(move || match copy_input(input) {
        Some(Left::ByUser) => {
            if let Err(refusal) = daemon.stop(false) {
                tell!("ferry: {refusal}");
            }
        }
        Some(Left::ByGuest) => discard_input(),
        None => {}
    });
    let terminal = Arc::new(Mutex::new(terminal));
    let its_end = terminal.clone();
    let output = thread::spawn(move || {
        copy_output(output);
        // The guest may run elsewhere and need this process for minutes: its user has the keyboard back.
        give_back(&its_end);
    });
    Ok(Attached { console, output: Some(output), terminal })
}

impl Drop for Attached {
    fn drop(&mut self) {
        // The last words come before the terminal is given back.
        self.console.shutdown(Shutdown::Both).ok();
        if let Some(output) = self.output.take() {
            output.join().ok();
        }
        give_back(&self.terminal);
        discard_unread();
    }
}

fn give_back(terminal: &Mutex<Option<RawTerminal>>) {
    drop(terminal.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket).with_context(|| format!("connect to the console at {}", socket.display()))
}

/// From standard input to the console, until Ctrl-] is typed or the console takes no more; the end of a file, `None`, is not
/// the end of the session.
fn copy_input(mut console: UnixStream) -> Option<Left> {
    let stdin = io::stdin();
    let is_terminal = stdin.is_terminal();
    // Unbuffered: a key goes when it is typed.
    let Ok(mut keys) = stdin.as_fd().try_clone_to_owned().map(File::from) else { return None };
    let mut buffer = [0; 1024];
    while await_input().is_ok() {
        let count = match keys.read(&mut buffer) {
            Ok(count @ 1..) => count,
            // Sent to the background in this instant.
            Err(error) if is_terminal && error.raw_os_error() == Some(libc::EIO) => continue,
            _ => break,
        };
        let typed = &buffer[..count];
        let leave = typed.iter().position(|byte| is_terminal && *byte == LEAVE);
        if console.write_all(&typed[..leave.unwrap_or(count)]).is_err() {
            return Some(Left::ByGuest);
        }
        if leave.is_some() {
            return Some(Left::ByUser);
        }
    }
    None
}

fn copy_output(mut console: UnixStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = console.read(&mut buffer) {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}
