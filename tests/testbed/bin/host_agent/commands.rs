//! Commands under way: each has a number, and threads that carry what it prints.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use testbed::wire::{self, Kind, MAX_BYTES};

use crate::clock;

/// What a command started may hold its output open after its end: no more of it is waited for than this.
const LAST_WORDS: Duration = Duration::from_millis(300);

type Port = Arc<Mutex<File>>;

struct Started {
    group: Pid,
    input: Option<ChildStdin>,
}

/// Runs what the port asks for, until it ends.
pub fn serve(mut port: File, output: File) -> io::Result<()> {
    let output: Port = Arc::new(Mutex::new(output));
    let started: Arc<Mutex<HashMap<u32, Started>>> = Arc::default();
    loop {
        let message = wire::read(&mut port)?;
        let id = message.id;
        let mut commands = started.lock().unwrap_or_else(PoisonError::into_inner);
        match message.kind {
            Kind::Run => match start(&message.bytes) {
                Ok((child, command)) => {
                    commands.insert(id, command);
                    let (output, started) = (Arc::clone(&output), Arc::clone(&started));
                    thread::spawn(move || {
                        let status = attend(child, id, &output);
                        started.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                        send(&output, Kind::Ended, id, &status.to_le_bytes());
                    });
                }
                Err(error) => {
                    send(&output, Kind::Stderr, id, error.to_string().as_bytes());
                    send(&output, Kind::Ended, id, &127i32.to_le_bytes());
                }
            },
            Kind::Input => {
                if let Some(input) = commands.get_mut(&id).and_then(|command| command.input.as_mut()) {
                    // A command that reads no more has its reasons.
                    input.write_all(&message.bytes).ok();
                }
            }
            Kind::EndOfInput => drop(commands.get_mut(&id).and_then(|command| command.input.take())),
            Kind::Kill => {
                if let Some(command) = commands.get(&id) {
                    kill_process_group(command.group, Signal::KILL).ok();
                }
            }
            Kind::Clock => send(&output, Kind::Clock, id, &clock::now().to_le_bytes()),
            Kind::MoveClock => clock::move_on(message.bytes.try_into().map_or(0, i64::from_le_bytes)),
            Kind::Ready | Kind::Stdout | Kind::Stderr | Kind::Ended => {}
        }
    }
}

fn start(command: &[u8]) -> io::Result<(Child, Started)> {
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(String::from_utf8_lossy(command).as_ref())
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .current_dir("/root")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let group = Pid::from_child(&child);
    let input = child.stdin.take();
    Ok((child, Started { group, input }))
}

/// Carries what it prints, and returns its status once it has ended.
fn attend(mut child: Child, id: u32, output: &Port) -> i32 {
    let (end, ended) = mpsc::channel::<()>();
    let carry = |kind, stream: Option<Box<dyn Read + Send>>| {
        let (output, end) = (Arc::clone(output), end.clone());
        thread::spawn(move || {
            let _until_the_end = end;
            let Some(mut stream) = stream else { return };
            let mut buffer = vec![0; MAX_BYTES];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                send(&output, kind, id, &buffer[..read]);
            }
        })
    };
    carry(Kind::Stdout, child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    carry(Kind::Stderr, child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    drop(end);
    let status = child.wait();
    // Both streams end with the command, but for those that something else holds open.
    ended.recv_timeout(LAST_WORDS).ok();
    status.map_or(i32::MIN, |status| status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)))
}

fn send(output: &Port, kind: Kind, id: u32, bytes: &[u8]) {
    // A port that fails is noticed by who reads it.
    wire::write(&mut *output.lock().unwrap_or_else(PoisonError::into_inner), kind, id, bytes).ok();
}
