//! The terminal on standard input, which is this process's only while its process group is in the foreground.
//!
//! A process that sets a terminal, or reads from it, while a shell has it in the background is stopped, and so is a guest
//! in it. So both are done in the foreground only, and whether it is there is looked at again when the process is
//! continued, as by a shell's `fg`, and every so often, since not every shell says so to a job that runs.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::getpgrp,
    termios::{
        InputModes, LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush,
        tcgetattr, tcgetpgrp, tcsetattr,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::sleep,
};

use super::output::tell;

/// How soon a process that was brought to the foreground notices.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Has nothing that this process does with its terminal stop it: neither words from the background, which a terminal may
/// forbid (`stty tostop`), nor what is done in the instant at which it is sent there.
pub fn never_stop_for_it() {
    for stop in [libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { libc::signal(stop, libc::SIG_IGN) };
    }
}

/// Passes every key on as it is typed, Ctrl-C too, whenever this process is in the foreground; output is left as it was.
/// The terminal is as before once this is dropped.
pub struct RawTerminal {
    shared: Arc<Shared>,
    /// Ends the thread that looks.
    _looking: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    /// The terminal as it was before this process set it.
    before: Option<Termios>,
    is_given_back: bool,
}

impl RawTerminal {
    /// `None` if standard input is no terminal.
    pub fn enter() -> io::Result<Option<RawTerminal>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let shared = Arc::<Shared>::default();
        shared.look()?;
        let (_looking, done) = oneshot::channel();
        let looking = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || runtime.block_on(look_again(&looking, done)))?;
        Ok(Some(RawTerminal { shared, _looking }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_given_back = true;
        // In the background the terminal is the shell's, and gone there is nothing to restore.
        if let Some(before) = state.before.take().filter(|_| is_in_foreground()) {
            // What was typed for the guest and not read is not for the shell.
            tcsetattr(io::stdin(), OptionalActions::Flush, &before).ok();
        }
    }
}

impl Shared {
    /// Sets the terminal if it is this process's to set and not set yet, or not any more.
    fn look(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.is_given_back || !is_in_foreground() {
            return Ok(());
        }
        let now = tcgetattr(io::stdin())?;
        let mut raw = now.clone();
        raw.input_modes -= InputModes::ICRNL | InputModes::INLCR | InputModes::IGNCR | InputModes::IXON;
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        if (raw.input_modes, raw.local_modes) != (now.input_modes, now.local_modes) {
            tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
            state.before = Some(now);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_again(shared: &Shared, mut done: oneshot::Receiver<()>) {
    let Ok(mut continued) = signal(SignalKind::from_raw(libc::SIGCONT)) else { return };
    loop {
        tokio::select! {
            _ = &mut done => return,
            _ = continued.recv() => {}
            () = sleep(LOOK_EVERY) => {}
        }
        // One that is gone cannot be set, nor need be.
        if shared.look().is_err() {
            return;
        }
    }
}

/// Whether the terminal on standard input is this process's to read and to set.
fn is_in_foreground() -> bool {
    match tcgetpgrp(io::stdin()) {
        Ok(foreground) => foreground == getpgrp(),
        // One that controls no job here, or no terminal at all, stops nobody.
        Err(error) => matches!(error, Errno::NOTTY | Errno::OPNOTSUPP),
    }
}

/// Something was typed that nobody read. Says so, and throws away what is typed on a terminal from here on, for as long as it is this process's: it was meant for a guest that has left, and
/// a shell that comes after must not run it.
pub fn discard_input() {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return;
    }
    let Ok(mut keys) = stdin.as_fd().try_clone_to_owned().map(File::from) else { return };
    tell!("ferry: the guest has left: what is typed here is not read");
    while await_input().is_ok() {
        // Sent to the background in this instant, or a terminal that is gone.
        if !matches!(keys.read(&mut [0; 1024]), Ok(1..)) {
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Throws away what was typed on a terminal and is still unread.
pub fn discard_unread() {
    if io::stdin().is_terminal() && is_in_foreground() {
        // A terminal that is gone has nothing.
        tcflush(io::stdin(), QueueSelector::IFlush).ok();
    }
}

/// Waits until standard input can be read, which it can in the foreground only.
pub fn await_input() -> io::Result<()> {
    let tick = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.as_nanos() as i64 };
    loop {
        if !is_in_foreground() {
            if io::stdin().is_terminal() {
                thread::sleep(LOOK_EVERY);
                continue;
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let stdin = io::stdin();
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut polled, Some(&tick)) {
            // It may have been sent to the background meanwhile.
            Ok(1..) if is_in_foreground() => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
