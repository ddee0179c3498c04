//! Boots a Linux kernel with its console on standard input and output, and moves it on request to a fresh machine in the
//! same process: `boot_linux KERNEL INITRD COMMAND-LINE [VCPUS [MEBIBYTES [MOVES]]]`.
//!
//! Each move waits until the guest has printed a line that begins with `MOVE`. After one that begins with `TIME`, and has
//! the guest's seconds since 1970 behind it, it says how far they are from the host's. Exits with 0 when the guest powers off, 3
//! when it wants a reset, 4 when it panics, 1 otherwise.

use std::error::Error;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vmm::{Backend, Backing, CpuModel, DeviceConfig, Event, Vm, VmConfig};

mod moving;

use moving::copy_memory;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd, command_line, numbers @ ..] = &arguments[..] else {
        return Err("boot_linux KERNEL INITRD COMMAND-LINE [VCPUS [MEBIBYTES [MOVES]]]".into());
    };
    let number =
        |index: usize, default: u64| numbers.get(index).map_or(Ok(default), |text| text.parse::<u64>());
    let vcpus = u8::try_from(number(0, 1)?)?;
    let devices = vec![DeviceConfig::Rng];
    let memory_bytes = number(1, 128)? << 20;
    let config = VmConfig { memory_bytes, vcpus, backing: Backing::Anonymous, devices };
    let moves = number(2, 0)?;
    let cpu = CpuModel::host()?;
    let mut vm = Vm::new(&config, &cpu, vec![Backend::Rng])?;
    let (lines, said) = channel();
    vm.console().set_output(Box::new(Output { line: Vec::new(), lines: lines.clone() }));
    vm.boot(&std::fs::read(kernel)?, command_line, Some(&std::fs::read(initrd)?))?;
    vm.start();
    for index in 1..=moves {
        wait_for_move(&said, &vm)?;
        vm = moved(vm, &cpu, index)?;
        vm.console().set_output(Box::new(Output { line: Vec::new(), lines: lines.clone() }));
        vm.start();
    }
    let console = vm.console();
    std::thread::spawn(move || {
        let mut typed = [0; 256];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut typed) {
            console.write(&typed[..count]);
        }
    });
    let event = vm.events().wait().ok_or("the machine is gone")?;
    eprintln!("boot_linux: {event}");
    Ok(ExitCode::from(match event {
        Event::PoweredOff => 0,
        Event::ResetRequested => 3,
        Event::Panicked => 4,
        Event::Exited { code } => code,
        _ => 1,
    }))
}

/// Waits for the line, or for the guest's end.
fn wait_for_move(said: &Receiver<String>, vm: &Vm) -> Result<(), Box<dyn Error>> {
    loop {
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(line) if line.starts_with("MOVE") => return Ok(()),
            Ok(_) => {}
            Err(_) => {
                if let Some(event) = vm.events().poll() {
                    return Err(format!("before it moved: {event}").into());
                }
            }
        }
    }
}

/// The guest in a fresh machine: memory and state, as an engine would carry them.
fn moved(mut from: Vm, cpu: &CpuModel, index: u64) -> Result<Vm, Box<dyn Error>> {
    let mut to = Vm::new(from.config(), cpu, vec![Backend::Rng])?;
    // A rehearsal, as before every real move.
    from.pause()?;
    let rehearsal = from.save()?;
    from.resume()?;
    to.restore(&rehearsal)?;
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    from.pause()?;
    let state = from.save()?;
    let pages = copy_memory(&from, &to)?;
    to.restore(&state)?;
    let bytes = state.len();
    eprintln!("boot_linux: move {index}: {pages} pages, {bytes} bytes of state, {:?}", start.elapsed());
    Ok(to)
}

/// How far the guest's time is behind the host's.
fn tell_difference(line: &str) {
    let guest = line.strip_prefix("TIME ").and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    if let (Some(guest), Ok(host)) = (guest, SystemTime::now().duration_since(UNIX_EPOCH)) {
        eprintln!("boot_linux: the guest's time is {:.3} s behind", host.as_secs_f64() - guest);
    }
}

/// The guest's console: on to standard output, and line by line to whoever waits for one.
struct Output {
    line: Vec<u8>,
    lines: Sender<String>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write_all(bytes)?;
        std::io::stdout().flush()?;
        for byte in bytes {
            if *byte == b'\n' {
                tell_difference(&String::from_utf8_lossy(&self.line));
                // Nobody waits any more after the last move.
                self.lines.send(String::from_utf8_lossy(&self.line).trim().to_owned()).ok();
                self.line.clear();
            } else {
                self.line.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
