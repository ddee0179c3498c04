//! Starting this command again in the background.
//!
//! The one in the background writes its words to a log beside its socket. Until its API answers the one in the foreground
//! waits, hands on what it prints, and tells what went wrong if it fails.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use clap::Args;

use super::output::tell;
use crate::daemon::Registry;

/// What the one in the background prints, before its name, when its API answers.
const READY: &str = "ready ";

/// Nobody reads this process's standard output (any more).
static IS_UNHEARD: AtomicBool = AtomicBool::new(false);

/// Given to the one in the background only.
#[derive(Args)]
pub struct Background {
    #[arg(long, hide = true, value_name = "LOG")]
    in_background: Option<PathBuf>,
}

impl Background {
    /// Whether this process is the one in the background.
    pub fn is_in_background(&self) -> bool {
        self.in_background.is_some()
    }

    /// Leaves the terminal's session, so that closing it does not end a process in the background.
    pub fn begin(&self) {
        if self.is_in_background() {
            // Fails only for the leader of a process group, which then has no terminal to lose.
            rustix::process::setsid().ok();
        }
    }

    /// The API answers under this name.
    pub fn ready(&self, registry: &Registry, name: &str) {
        let Some(log) = &self.in_background else { return };
        if let Err(error) = std::fs::rename(log, registry.log(name)) {
            tracing::warn!(%error, "the log stays at {}", log.display());
        }
        say(&format!("{READY}{name}"));
        IS_UNHEARD.store(true, Ordering::Relaxed);
    }
}

/// Prints a line to whoever still listens: standard output, or the log of a process in the background.
pub fn say(line: &str) {
    if IS_UNHEARD.load(Ordering::Relaxed) {
        tell!("{line}");
        return;
    }
    let mut stdout = std::io::stdout().lock();
    // Who has closed it does not want to know.
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
}

/// Starts this command in the background, waits until its API answers, and prints its name.
pub fn start(registry: &Registry, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let log = registry.log(&format!(".starting-{}", std::process::id()));
    let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let program = arguments.first().cloned().unwrap_or_else(|| "ferry".into());
    let mut child = Command::new(env::current_exe().context("find this program")?)
        .arg0(program)
        .args(arguments.iter().skip(1))
        .arg("--in-background")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .context("start in the background")?;
    let stdout = child.stdout.take().context("hear from the process in the background")?;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        match line.strip_prefix(READY) {
            Some(name) => {
                say(name);
                return Ok(ExitCode::SUCCESS);
            }
            None => say(&line),
        }
    }
    let status = child.wait().context("wait for the process in the background")?;
    std::io::stderr().write_all(&std::fs::read(&log).unwrap_or_default()).ok();
    std::fs::remove_file(&log).ok();
    Ok(ExitCode::from(status.code().unwrap_or(1).clamp(1, 255) as u8))
}
