//! This terminal as a host's serial console.

use std::{
    fs,
    io::{self, IsTerminal, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::ExitCode,
    thread,
};

use anyhow::Context;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Ctrl-]
const LEAVE: u8 = 0x1d;

/// Shows the console of a host of the bed that was started last, until Ctrl-] or the host's end.
pub fn attach(host: &str) -> anyhow::Result<ExitCode> {
    let socket = find(host)?;
    let mut console =
        UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    let terminal = Terminal::enter()?;
    eprint!("{host}: Ctrl-] leaves it\r\n");
    let mut input = console.try_clone()?;
    // A prompt, so that something is to be seen.
    input.write_all(b"\n")?;
    thread::spawn(move || {
        let mut keys = [0; 256];
        while let Ok(read @ 1..) = io::stdin().read(&mut keys) {
            let keys = &keys[..read];
            let leave = keys.iter().position(|key| *key == LEAVE);
            if input.write_all(&keys[..leave.unwrap_or(read)]).is_err() || leave.is_some() {
                break;
            }
        }
        input.shutdown(std::net::Shutdown::Both).ok();
    });
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = console.read(&mut bytes) {
        let mut output = io::stdout();
        output.write_all(&bytes[..read])?;
        output.flush()?;
    }
    drop(terminal);
    eprintln!();
    Ok(ExitCode::SUCCESS)
}

fn find(host: &str) -> anyhow::Result<PathBuf> {
    let folders = fs::read_dir(std::env::temp_dir())?.filter_map(Result::ok);
    let folders = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("ferry-hosts-"));
    let consoles =
        folders.map(|entry| entry.path().join(format!("{host}.console"))).filter(|path| path.exists());
    consoles
        .max_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
        .with_context(|| format!("there is no {host}: start hosts with `hosts up`, and leave it running"))
}

/// The terminal as it was, which it will be again when this is dropped.
struct Terminal(Option<Termios>);

impl Terminal {
    fn enter() -> io::Result<Terminal> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Terminal(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Terminal(Some(before)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // If the terminal is gone there is nothing to restore.
            tcsetattr(io::stdin(), OptionalActions::Drain, before).ok();
        }
    }
}
