//! The bed: some hosts, and the network between them.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use linux_guest::{
    curl::Curl,
    debian::{Debian, Missing},
    recipe::{self, RecipeError},
    static_programs::{self, BuildError},
};
use tempfile::TempDir;

use super::{
    Link, QEMU,
    agent::CommandError,
    host::{Booting, Host, HostConfig, Place},
    image::{self, Programs},
    switch::Switch,
    tsc,
};

/// How long hosts may take to come up: seconds, or minutes where others use the processors, too.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long setting a link may take.
const SHAPING: Duration = Duration::from_secs(30);

/// What a bed is made of.
#[derive(Debug, Clone)]
pub struct BedConfig {
    /// The hosts that run guests: `host-1` at 10.77.0.1, `host-2` …
    pub hosts: Vec<HostConfig>,
    /// Whether there is a client, at 10.77.0.100, outside of them. All have `curl` then.
    pub has_client: bool,
    /// Whether hosts have the Linux guest, for `ferry run linux`.
    pub has_linux_guest: bool,
    /// Files of this machine to have on each host: from, to. They may be run there.
    pub files: Vec<(PathBuf, String)>,
    /// Bytes of a disk that all hosts that run guests have as `/dev/vda`, zeros at first; 0: there is none.
    pub shared_disk_bytes: u64,
}

impl BedConfig {
    /// Two hosts.
    pub fn two() -> BedConfig {
        let hosts = vec![HostConfig::with_kvm(); 2];
        BedConfig {
            hosts,
            has_client: false,
            has_linux_guest: false,
            files: Vec::new(),
            shared_disk_bytes: 0,
        }
    }

    /// Two hosts that have the Linux guest and a disk of 32 MiB, and a client.
    pub fn with_linux_guest() -> BedConfig {
        BedConfig { has_client: true, has_linux_guest: true, shared_disk_bytes: 32 << 20, ..BedConfig::two() }
    }
}

/// Why there is no bed.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// No QEMU.
    #[error("{QEMU} cannot be run ({0}): install Debian's qemu-system-x86")]
    NoQemu(String),
    /// A QEMU without `-netdev stream`.
    #[error("{QEMU} is version {0}.{1}: 7.2 or newer is needed")]
    OldQemu(u32, u32),
    /// No kernel, no busybox or no curl for the hosts.
    #[error(transparent)]
    NoDebian(#[from] Missing),
    /// `ferry` does not build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The Linux guest cannot be made.
    #[error(transparent)]
    LinuxGuest(#[from] RecipeError),
    /// A file.
    #[error("{doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A host does not come up.
    #[error("{host} does not come up: {why}; its console:\n{console}")]
    NotUp {
        /// Which.
        host: String,
        /// What is known.
        why: String,
        /// What QEMU and its kernel said.
        console: String,
    },
    /// A link cannot be set.
    #[error("set {link} on {host}: {words}")]
    Shape {
        /// Where.
        host: String,
        /// To what.
        link: String,
        /// What was said.
        words: String,
    },
    /// A host is down.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl BedError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> BedError {
        BedError::Io { doing, path: path.to_owned(), source }
    }

    /// Whether this machine lacks something a bed needs, rather than something being broken.
    pub fn is_lack(&self) -> bool {
        matches!(self, BedError::NoQemu(_) | BedError::OldQemu(..) | BedError::NoDebian(_))
    }
}

/// Hosts that are up. Dropping it ends them and leaves nothing behind.
pub struct Bed {
    // Before the directory, so that it is unused when it goes.
    hosts: Vec<Host>,
    kvm_hosts: usize,
    switch: Switch,
    directory: TempDir,
}

impl Bed {
    /// Builds `ferry` and boots the hosts. `FERRY_BIN` names a static `ferry` to use instead of this workspace's.
    ///
    /// # Errors
    /// [`BedError`]; [`BedError::is_lack`] tells a machine that cannot from a bed that is broken.
    pub fn up(config: &BedConfig) -> Result<Bed, BedError> {
        check_qemu()?;
        let debian = Debian::find()?;
        let programs = programs(config.has_client)?;
        let directory = scratch()?;
        let mut files = config.files.clone();
        if config.has_linux_guest {
            let guest = recipe::make(&directory.path().join("linux"))?;
            // Where `ferry` looks in the home of root.
            for path in [guest.kernel, guest.initrd] {
                let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
                files.push((path, format!("root/.local/share/ferry/linux/{name}")));
            }
        }
        let initrd = directory.path().join("host.cpio");
        image::write(&initrd, &debian, &programs, &files).map_err(|e| BedError::io("write", &initrd, e))?;
        let shared_disk = shared_disk(directory.path(), config.shared_disk_bytes)?;
        let mut members: Vec<(String, String, HostConfig)> = Vec::new();
        for (index, host) in config.hosts.iter().enumerate() {
            members.push((format!("host-{}", index + 1), format!("10.77.0.{}", index + 1), host.clone()));
        }
        if config.has_client {
            members.push(("client".to_owned(), "10.77.0.100".to_owned(), HostConfig::client()));
        }
        let all = members
            .iter()
            .map(|(name, address, _)| format!("{name}={address}"))
            .collect::<Vec<_>>()
            .join(",");
        let tsc_khz = tsc::khz();
        let start = |(index, (name, address, host)): (usize, &(String, String, HostConfig))| {
            let place = Place {
                name: name.clone(),
                address: address.clone(),
                hosts: &all,
                directory: directory.path(),
                kernel: &debian.kernel,
                initrd: &initrd,
                index,
                tsc_khz,
                shared_disk: shared_disk.as_deref(),
            };
            Booting::start(&place, host)
        };
        // All boot at a time.
        let booting = members.iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        let switch = Switch::default();
        let hosts =
            booting.into_iter().map(|host| host.finish(&switch, PATIENCE)).collect::<Result<_, _>>()?;
        Ok(Bed { hosts, kvm_hosts: config.hosts.len(), switch, directory })
    }

    /// Downloads and builds all that a bed is made of, which takes minutes once. [`Bed::up`] does that too.
    ///
    /// # Errors
    /// As of [`Bed::up`].
    pub fn prepare() -> Result<(), BedError> {
        check_qemu()?;
        Debian::find()?;
        programs(true)?;
        recipe::make(scratch()?.path())?;
        Ok(())
    }

    /// A host that runs guests, counted from 0: `host(0)` is `host-1`.
    ///
    /// # Panics
    /// If the bed has no such host.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[..self.kvm_hosts][index]
    }

    /// All of them, the client last.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The client.
    ///
    /// # Panics
    /// If the bed has none.
    pub fn client(&self) -> &Host {
        assert!(self.hosts.len() > self.kvm_hosts, "the bed was made without a client");
        &self.hosts[self.kvm_hosts]
    }

    /// Where sockets and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Gives what leaves each host these qualities, in its own kernel. The client's way out is left alone.
    ///
    /// # Errors
    /// If a host does not do it.
    pub fn link(&self, link: &Link) -> Result<(), BedError> {
        for host in &self.hosts[..self.kvm_hosts] {
            let output = host.run(&format!("shape eth0 {link}"), SHAPING)?;
            if output.status != 0 {
                let (host, words) = (host.name().to_owned(), output.error_text());
                return Err(BedError::Shape { host, link: link.to_string(), words });
            }
        }
        Ok(())
    }

    /// Cuts the link between two hosts, counted from 0; their links to others stay.
    pub fn cut(&self, one: usize, other: usize) {
        self.switch.cut(one, other, true);
    }

    /// Mends it.
    pub fn mend(&self, one: usize, other: usize) {
        self.switch.cut(one, other, false);
    }
}

/// A folder of one's own that goes when it is dropped.
fn scratch() -> Result<TempDir, BedError> {
    let made = tempfile::Builder::new().prefix("ferry-hosts-").tempdir();
    made.map_err(|e| BedError::io("create a directory in", &std::env::temp_dir(), e))
}

/// The file of a disk that hosts share, if they do.
fn shared_disk(directory: &Path, bytes: u64) -> Result<Option<PathBuf>, BedError> {
    if bytes == 0 {
        return Ok(None);
    }
    let path = directory.join("shared.disk");
    let made = File::create(&path).and_then(|file| file.set_len(bytes));
    made.map_err(|e| BedError::io("make", &path, e))?;
    Ok(Some(path))
}

/// This workspace's programs, or `FERRY_BIN` and the agent; curl for a client.
fn programs(has_client: bool) -> Result<Programs, BedError> {
    let agent = ("testbed", "host-agent");
    let curl = has_client.then(Curl::find).transpose()?;
    if let Some(ferry) = std::env::var_os("FERRY_BIN") {
        return Ok(Programs {
            ferry: ferry.into(),
            agent: static_programs::build(&[agent])?.join("host-agent"),
            curl,
        });
    }
    let directory = static_programs::build(&[("ferry", "ferry"), agent])?;
    Ok(Programs { ferry: directory.join("ferry"), agent: directory.join("host-agent"), curl })
}

fn check_qemu() -> Result<(), BedError> {
    let version = qemu_version()?;
    if version < (7, 2) { Err(BedError::OldQemu(version.0, version.1)) } else { Ok(()) }
}

/// The first two numbers of QEMU's version; zeros if they are not understood.
///
/// # Errors
/// [`BedError::NoQemu`]
pub fn qemu_version() -> Result<(u32, u32), BedError> {
    let output = Command::new(QEMU).arg("--version").output().map_err(|e| BedError::NoQemu(e.to_string()))?;
    // QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(3).unwrap_or_default();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}
