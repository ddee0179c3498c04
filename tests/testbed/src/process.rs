//! A host's QEMU: ends with this process, whatever ends that.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Signal, set_parent_process_death_signal};

/// How often it is looked whether a process has ended by itself.
const LOOK: Duration = Duration::from_millis(50);

/// A process under way. Dropping it kills it.
pub struct Process {
    keeper: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    ended: Arc<Mutex<Option<ExitStatus>>>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn start(mut command: Command) -> io::Result<Process> {
        let die_with_parent = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: between fork and exec this makes one system call (prctl) and nothing else.
        unsafe { command.pre_exec(die_with_parent) };
        let (stop, stopped) = channel::<()>();
        let (tell, started) = channel();
        let ended = Arc::new(Mutex::new(None));
        let end = Arc::clone(&ended);
        // The kernel takes the thread that forked for the parent, so a thread of its own waits as long as the child lives.
        let keeper = thread::Builder::new().name("host".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(tell.send(Err(error))),
            };
            tell.send(Ok(())).ok();
            let status = loop {
                match (child.try_wait(), stopped.recv_timeout(LOOK)) {
                    (Ok(Some(status)), _) => break Some(status),
                    (_, Err(RecvTimeoutError::Timeout)) => {}
                    _ => {
                        child.kill().ok();
                        break child.wait().ok();
                    }
                }
            };
            *end.lock().unwrap_or_else(PoisonError::into_inner) = status;
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))?;
        Ok(Process { keeper: Mutex::new(Some((stop, keeper))), ended })
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it, as a power cut would, and waits until it is gone.
    pub fn kill(&self) {
        if let Some((stop, keeper)) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(stop);
            keeper.join().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_killed_and_one_that_ends_is_seen_to() {
        let sleep = |time: &str| {
            let mut command = Command::new("sleep");
            command.arg(time);
            Process::start(command).unwrap()
        };
        let long = sleep("1000");
        assert_eq!(long.ended(), None);
        long.kill();
        assert!(!long.ended().expect("it is gone").success());
        let short = sleep("0");
        while short.ended().is_none() {
            thread::sleep(LOOK);
        }
        assert!(short.ended().expect("it is gone").success());
        assert!(Process::start(Command::new("/no/such/program")).is_err());
    }
}
