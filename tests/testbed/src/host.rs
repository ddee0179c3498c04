//! One emulated host.

use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use super::{
    BedError,
    agent::{Agent, CommandError, Output, Running},
    process::Process,
    switch::Switch,
    wire::PORT,
};

/// What carries files in and out may take.
const COPY: Duration = Duration::from_secs(60);

/// What a host is made of.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Its memory.
    pub memory_bytes: u64,
    /// Its processors, each a thread of this machine.
    pub processors: u8,
    /// Its CPU, as QEMU's `-cpu` has it.
    pub cpu: String,
    /// Whether it can run guests.
    pub has_kvm: bool,
}

impl HostConfig {
    /// One that runs guests. Without XSAVE: QEMU 7.2 lets a guest set XCR0 unseen by KVM, which then runs it on with the
    /// value it had at reset, and the guest's vector registers are lost when it switches tasks.
    pub fn with_kvm() -> HostConfig {
        HostConfig { memory_bytes: 1 << 30, processors: 1, cpu: "max,+svm,-xsave".to_owned(), has_kvm: true }
    }

    /// One with XSAVE and so with AVX, for itself and for its guests; AVX-512 QEMU does not emulate. QEMU must be of
    /// [`super::QEMU_WITH_XSETBV`].
    pub fn with_avx() -> HostConfig {
        HostConfig { cpu: "max,+svm".to_owned(), ..HostConfig::with_kvm() }
    }

    /// One that only looks on: a client.
    pub fn client() -> HostConfig {
        HostConfig { memory_bytes: 256 << 20, processors: 1, cpu: "max,-xsave".to_owned(), has_kvm: false }
    }
}

/// Where a host lies, and what it boots.
pub(super) struct Place<'a> {
    pub name: String,
    pub address: String,
    /// All hosts, as `name=address,…`.
    pub hosts: &'a str,
    pub directory: &'a Path,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub index: usize,
    pub tsc_khz: u64,
    /// A raw file that is the host's disk, and others' too.
    pub shared_disk: Option<&'a Path>,
}

/// An emulated host that is up.
pub struct Host {
    name: String,
    address: String,
    console: PathBuf,
    log: PathBuf,
    process: Process,
    agent: Agent,
}

/// A host that was started and has not said yet that it is up.
pub(super) struct Booting {
    name: String,
    address: String,
    console: PathBuf,
    log: PathBuf,
    process: Process,
    agent: UnixListener,
    network: UnixListener,
}

impl Booting {
    pub fn start(place: &Place, config: &HostConfig) -> Result<Booting, BedError> {
        let path = |what: &str| place.directory.join(format!("{}.{what}", place.name));
        let (console, log) = (path("console"), path("log"));
        let (agent_path, network_path) = (path("agent"), path("network"));
        let bind = |path: &Path| UnixListener::bind(path).map_err(|e| BedError::io("bind", path, e));
        let (agent, network) = (bind(&agent_path)?, bind(&network_path)?);
        let line = format!(
            "console=ttyS0 quiet mitigations=off random.trust_cpu=on panic=-1 rdinit=/init {} ferry.name={} \
             ferry.address={} ferry.hosts={} ferry.kvm={}",
            // Told, and with nothing left to measure it by.
            format_args!("tsc_early_khz={} tsc=reliable no_timer_check hpet=disable pmtmr=0", place.tsc_khz),
            place.name,
            place.address,
            place.hosts,
            if config.has_kvm { "yes" } else { "no" }
        );
        let mut qemu = Command::new(super::QEMU);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args([
                "-name",
                &place.name,
                "-M",
                "q35,usb=off",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                &config.cpu,
            ])
            .args(["-m", &format!("{}M", config.memory_bytes >> 20), "-smp", &config.processors.to_string()])
            .arg("-kernel")
            .arg(place.kernel)
            .arg("-initrd")
            .arg(place.initrd)
            .args(["-append", &line])
            .arg("-chardev")
            .arg(format!(
                "socket,id=console,path={},server=on,wait=off,logfile={}",
                console.display(),
                log.display()
            ))
            .args(["-serial", "chardev:console", "-device", "virtio-serial-pci"])
            .arg("-chardev")
            .arg(format!("socket,id=agent,path={}", agent_path.display()))
            .args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")])
            .arg("-netdev")
            .arg(format!("stream,id=net,server=off,addr.type=unix,addr.path={}", network_path.display()))
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:77:00:{:02x}", place.index + 1),
            ]);
        if let Some(disk) = place.shared_disk.filter(|_| config.has_kvm) {
            // QEMU's own lock on the file is for those who do not know what they do.
            let drive = format!("file={},if=none,id=shared,format=raw,file.locking=off", disk.display());
            qemu.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=shared,share-rw=on"]);
        }
        let errors = path("qemu");
        let file = fs::File::create(&errors).map_err(|e| BedError::io("create", &errors, e))?;
        qemu.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(file);
        let process = Process::start(qemu).map_err(|e| BedError::io("run", Path::new(super::QEMU), e))?;
        let (name, address) = (place.name.clone(), place.address.clone());
        Ok(Booting { name, address, console, log, process, agent, network })
    }

    /// Waits until it is up, and connects it.
    pub fn finish(self, switch: &Switch, patience: Duration) -> Result<Host, BedError> {
        let deadline = Instant::now() + patience;
        let Booting { name, address, console, log, process, agent, network } = self;
        let not_up = |why: String| {
            let qemu = fs::read_to_string(log.with_extension("qemu")).unwrap_or_default();
            let console = fs::read_to_string(&log).unwrap_or_default();
            BedError::NotUp { host: name.clone(), why, console: format!("{qemu}{console}") }
        };
        let accept = |listener: &UnixListener| -> Result<UnixStream, BedError> {
            listener.set_nonblocking(true).map_err(|e| not_up(e.to_string()))?;
            loop {
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(false).map_err(|e| not_up(e.to_string()))?;
                    return Ok(stream);
                }
                if let Some(status) = process.ended() {
                    return Err(not_up(format!("QEMU ended with {status}")));
                }
                if Instant::now() > deadline {
                    return Err(not_up("QEMU does not connect".to_owned()));
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        let agent = accept(&agent)?;
        switch.connect(accept(&network)?).map_err(|e| not_up(e.to_string()))?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let agent = Agent::connect(&name, agent, left).map_err(|e| not_up(format!("its agent: {e}")))?;
        agent.set_clock()?;
        Ok(Host { name, address, console, log, process, agent })
    }
}

impl Host {
    /// Its name, by which other hosts find it: `host-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the network.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The unix socket of its serial console, with a shell.
    pub fn console_socket(&self) -> &Path {
        &self.console
    }

    /// All that its console has shown, from the kernel's first words on.
    pub fn console_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Runs a command by `sh -c` and waits for its end; after `limit` it is killed.
    ///
    /// # Errors
    /// If it does not end in time, or the host is down. A command that fails is no error: see [`Output::status`].
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, CommandError> {
        let running = self.agent.start(command)?;
        running.feed(&[])?;
        running.wait(limit)
    }

    /// Starts a command, to be waited for later.
    ///
    /// # Errors
    /// If the host is down.
    pub fn start(&self, command: &str) -> Result<Running<'_>, CommandError> {
        self.agent.start(command)
    }

    /// Writes a file there.
    ///
    /// # Errors
    /// If it cannot be written, or the host is down.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), FileError> {
        let running = self.start(&format!("cat > '{path}'"))?;
        running.feed(bytes)?;
        self.copied(path, running.wait(COPY)?).map(drop)
    }

    /// Reads a file there.
    ///
    /// # Errors
    /// If it cannot be read, or the host is down.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, FileError> {
        self.copied(path, self.run(&format!("cat '{path}'"), COPY)?)
    }

    fn copied(&self, path: &str, output: Output) -> Result<Vec<u8>, FileError> {
        if output.status == 0 {
            return Ok(output.stdout);
        }
        let (host, path) = (self.name.clone(), path.to_owned());
        Err(FileError::Refused { host, path, words: output.error_text() })
    }

    /// Ends it at once, as a power cut would. It does not come back.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// Why a file was not carried.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There was nobody to do it.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// It cannot be opened there.
    #[error("{path} on {host}: {words}")]
    Refused {
        /// Where.
        host: String,
        /// Which.
        path: String,
        /// What was said.
        words: String,
    },
}
