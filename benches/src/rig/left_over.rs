//! Processes of a harness that was killed.
//!
//! The kernel kills them with it (see [`super::die_with_parent`]). Should one live on all the same, the next harness
//! ends it: each is written down in the runtime folder, by its id and the time at which it was started, so that nobody
//! else's process of the same id is meant.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use rustix::process::{Pid, Signal, kill_process};

const FILE: &str = "processes";

/// Writes a process down. That this fails is no reason not to measure.
pub fn record(folder: &Path, pid: u32) {
    let Some(started) = started(pid) else { return };
    let file = OpenOptions::new().create(true).append(true).open(folder.join(FILE));
    file.and_then(|mut file| writeln!(file, "{pid} {started}")).ok();
}

/// Ends every process that is written down in a folder and still runs.
pub fn end_all(folder: &Path) {
    let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    for line in text.lines() {
        let Some((pid, when)) = line.split_once(' ') else { continue };
        let (Ok(pid), Ok(when)) = (pid.parse::<u32>(), when.parse::<u64>()) else { continue };
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| started(pid) == Some(when)) {
            kill_process(id, Signal::KILL).ok();
        }
    }
}

/// When a process was started, in clock ticks since boot; nothing if there is none.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from behind it: the start is field 22.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    #[test]
    fn what_still_runs_is_ended_and_a_stranger_of_the_same_id_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut ours = Command::new("sleep").arg("600").spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        record(folder.path(), ours.id());
        let another_time = started(stranger.id()).unwrap() - 1;
        let file = folder.path().join(FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}{} {another_time}\nnonsense\n1 x\n", stranger.id())).unwrap();

        end_all(folder.path());
        assert_eq!(ours.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
