//! Boots a Linux kernel with one virtio device of each kind, and moves it to fresh machines in the same process when it
//! says so: `linux_devices KERNEL INITRD COMMAND-LINE DISK TAP…`. The first machine gets the first tap; each line of the
//! guest's that begins with `MOVE` moves it to a machine with the next one.
//!
//! Other lines that do something: `BALLOON N` asks the guest to give up N pages, and `TYPE words` types the words into its
//! virtio console. What the guest prints there comes out with `hvc0: ` before it. Exits with 0 when the guest powers off.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use vmm::{
    Backend, Backing, CpuModel, DeviceConfig, Disk, Event, MAX_FRAME_BYTES, MacAddress, Tap, Vm, VmConfig,
};

mod moving;

use moving::copy_memory;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x51]);

/// What machines are made of.
struct Parts<'a> {
    config: VmConfig,
    cpu: CpuModel,
    disk: &'a Path,
    lines: Sender<String>,
}

impl Parts<'_> {
    fn machine(&self, tap: &str) -> Result<Vm> {
        let disk = Disk::new(self.disk, false)?;
        let tap = Tap::open(tap)?;
        let backends =
            vec![Backend::Rng, Backend::Net(tap), Backend::Disk(disk), Backend::Console, Backend::Balloon];
        let vm = Vm::new(&self.config, &self.cpu, backends)?;
        vm.console().set_output(Box::new(Lines { before: "", line: Vec::new(), lines: self.lines.clone() }));
        for console in vm.virtio_consoles() {
            let lines = self.lines.clone();
            console.set_output(Box::new(Lines { before: "hvc0: ", line: Vec::new(), lines }));
        }
        Ok(vm)
    }
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd, command_line, disk, first_tap, taps @ ..] = &arguments[..] else {
        return Err("linux_devices KERNEL INITRD COMMAND-LINE DISK TAP…".into());
    };
    let disk = Path::new(disk);
    let devices = vec![
        DeviceConfig::Rng,
        DeviceConfig::Net { mac: MAC },
        DeviceConfig::Block { read_only: false, bytes: Disk::new(disk, false)?.bytes() },
        DeviceConfig::Console,
        DeviceConfig::Balloon,
    ];
    let config = VmConfig { memory_bytes: 128 << 20, vcpus: 1, backing: Backing::Anonymous, devices };
    let (lines, said) = channel();
    let parts = Parts { config, cpu: CpuModel::host()?, disk, lines };
    let mut vm = parts.machine(first_tap)?;
    vm.boot(&std::fs::read(kernel)?, command_line, Some(&std::fs::read(initrd)?))?;
    vm.start();
    let mut taps = taps.iter();
    loop {
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => match line.split_once(' ').unwrap_or((&line, "")) {
                ("MOVE", _) => vm = moved(vm, parts.machine(taps.next().ok_or("no tap left")?)?)?,
                ("BALLOON", pages) => vm.balloons()[0].set_target_pages(pages.parse()?),
                ("TYPE", words) => {
                    vm.virtio_consoles()[0].write(format!("{words}\n").as_bytes());
                }
                _ => {}
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("nobody prints".into()),
        }
        if let Some(event) = vm.events().poll() {
            let balloon = vm.balloons()[0].actual_pages();
            eprintln!(
                "linux_devices: {event}; {:?}; {balloon} pages in the balloon",
                vm.network()[0].counters()
            );
            return Ok(ExitCode::from(u8::from(!matches!(event, Event::PoweredOff))));
        }
    }
}

/// The guest in the machine `to`: memory, state, frames and disk, as an engine would carry them.
fn moved(mut from: Vm, mut to: Vm) -> Result<Vm> {
    from.sync_disks()?;
    let start = Instant::now();
    from.pause()?;
    let state = from.save()?;
    from.release_disks()?;
    let pages = copy_memory(&from, &to)?;
    to.restore(&state)?;
    to.take_disks()?;
    let (source, destination) = (from.network().remove(0), to.network().remove(0));
    let carries = AtomicBool::new(true);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            let mut frame = vec![0; MAX_FRAME_BYTES];
            while carries.load(Ordering::SeqCst) {
                match source.take_frame(&mut frame) {
                    Ok(Some(bytes)) => drop(destination.inject(&frame[..bytes])),
                    Ok(None) => std::thread::sleep(Duration::from_micros(200)),
                    Err(error) => return eprintln!("linux_devices: a frame is lost: {error}"),
                }
            }
        });
        to.start();
        let took = start.elapsed();
        for _ in 0..3 {
            destination.announce()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        carries.store(false, Ordering::SeqCst);
        eprintln!("linux_devices: moved: {pages} pages, {} bytes of state, {took:?}", state.len());
        Ok(())
    })?;
    eprintln!("linux_devices: here it had {:?}", source.counters());
    Ok(to)
}

/// A console: on to standard output, and line by line to whoever waits for one.
struct Lines {
    before: &'static str,
    line: Vec<u8>,
    lines: Sender<String>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).trim().to_owned();
                println!("{}{line}", self.before);
                // Nobody waits any more after the guest's end.
                self.lines.send(line).ok();
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
