//! Devices on the command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};

/// Devices of a guest to run
#[derive(Args, Clone, Debug, Default)]
pub struct Devices {
    /// A network card on this tap, which is made if there is none; may be repeated
    #[arg(long = "net", value_name = "tap=NAME[,mac=ADDRESS]")]
    pub nets: Vec<NetArgument>,
    /// A disk, which must exist: a raw file or a block device; may be repeated
    #[arg(long = "disk", value_name = "path=FILE[,read-only]")]
    pub disks: Vec<DiskArgument>,
    /// A source of random bytes
    #[arg(long)]
    pub rng: bool,
    /// A balloon, by which the guest can give memory back
    #[arg(long)]
    pub balloon: bool,
    /// What the guest's console is on
    #[arg(long, value_enum, default_value_t)]
    pub console: ConsoleKind,
}

/// What a guest's console is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConsoleKind {
    /// The serial port: ttyS0 in Linux
    #[default]
    Serial,
    /// A virtio console: hvc0 in Linux
    Virtio,
}

impl Devices {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let console = self.console == ConsoleKind::Serial;
        self.nets.is_empty() && self.disks.is_empty() && !self.rng && !self.balloon && console
    }
}

/// Devices of this host for a VM that comes
#[derive(Args, Clone, Debug, Default)]
pub struct HostDevices {
    /// The tap for the VM's network card; repeat it for each card, in their order
    #[arg(long = "net", value_name = "tap=NAME", value_parser = tap_alone)]
    pub taps: Vec<String>,
    /// The VM's disk as this host sees it; repeat it for each, in their order
    #[arg(long = "disk", value_name = "path=FILE", value_parser = disk_alone)]
    pub disks: Vec<PathBuf>,
}

/// A network card, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetArgument {
    /// The tap's name.
    pub tap: String,
    /// Its address, as typed; one made from this host and the VM's name if there is none.
    pub mac: Option<String>,
}

impl FromStr for NetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<NetArgument, String> {
        let (mut tap, mut mac) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", name)) if !name.is_empty() => tap = Some(name.to_owned()),
                Some(("mac", address)) => mac = Some(address.to_owned()),
                _ => {
                    return Err(format!(
                        "{part:?} is not understood: write tap=NAME or tap=NAME,mac=ADDRESS"
                    ));
                }
            }
        }
        let tap = tap.ok_or_else(|| "say which tap, as in tap=ferry0".to_owned())?;
        Ok(NetArgument { tap, mac })
    }
}

/// A disk, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArgument {
    /// The file.
    pub path: PathBuf,
    /// The guest may not write to it.
    pub read_only: bool,
}

impl FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskArgument, String> {
        let (mut path, mut read_only) = (None, false);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("path", file)) if !file.is_empty() => path = Some(file.into()),
                None if part == "read-only" => read_only = true,
                _ => {
                    return Err(format!(
                        "{part:?} is not understood: write path=FILE or path=FILE,read-only"
                    ));
                }
            }
        }
        let path = path.ok_or_else(|| "say which file, as in path=disk.raw".to_owned())?;
        Ok(DiskArgument { path, read_only })
    }
}

fn disk_alone(text: &str) -> Result<PathBuf, String> {
    let disk: DiskArgument = text.parse()?;
    match disk.read_only {
        true => Err("the VM brings along whether it may write to it: leave read-only out".to_owned()),
        false => Ok(disk.path),
    }
}

fn tap_alone(text: &str) -> Result<String, String> {
    let net: NetArgument = text.parse()?;
    match net.mac {
        Some(_) => Err("the VM brings its address along: leave mac out".to_owned()),
        None => Ok(net.tap),
    }
}

/// An address for the card `number` of a VM that begins on this host: the same for the same name, and another one for a
/// VM of that name on another host. Locally administered, as 52:54:00 is by custom.
#[cfg(feature = "kvm")]
pub fn mac_of(name: &str, number: usize) -> vmm::MacAddress {
    mac_on(host(), name, number)
}

#[cfg(feature = "kvm")]
fn mac_on(host: u64, name: &str, number: usize) -> vmm::MacAddress {
    use twox_hash::XxHash3_64 as Hash;
    let card = Hash::oneshot_with_seed(number as u64, name.as_bytes());
    let hash = Hash::oneshot_with_seed(host, &card.to_le_bytes()).to_le_bytes();
    vmm::MacAddress([0x52, 0x54, 0, hash[0], hash[1], hash[2]])
}

/// This host, told from others: by its machine-id(5), or, where it has none, by chance, and only for as long as this
/// process lives.
#[cfg(feature = "kvm")]
fn host() -> u64 {
    use std::{hash::BuildHasher, sync::OnceLock};
    static HOST: OnceLock<u64> = OnceLock::new();
    *HOST.get_or_init(|| {
        let files = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
        files
            .iter()
            .find_map(|file| host_of(&std::fs::read_to_string(file).ok()?))
            .unwrap_or_else(|| std::hash::RandomState::new().hash_one(std::process::id()))
    })
}

/// The host of a machine-id: nothing if the file was not filled in yet.
#[cfg(feature = "kvm")]
fn host_of(machine_id: &str) -> Option<u64> {
    let id = machine_id.trim();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| twox_hash::XxHash3_64::oneshot(id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_cards_are_read() {
        let net = |tap: &str, mac: Option<&str>| NetArgument { tap: tap.into(), mac: mac.map(Into::into) };
        assert_eq!("tap=ferry0".parse(), Ok(net("ferry0", None)));
        assert_eq!("tap=t,mac=02:00:00:00:00:01".parse(), Ok(net("t", Some("02:00:00:00:00:01"))));
        for wrong in ["", "ferry0", "tap=", "mac=02:00:00:00:00:01", "tap=a,vlan=3"] {
            assert!(wrong.parse::<NetArgument>().is_err(), "{wrong}");
        }
        assert_eq!(tap_alone("tap=x"), Ok("x".to_owned()));
        assert!(tap_alone("tap=x,mac=02:00:00:00:00:01").is_err());
    }

    #[test]
    fn disks_are_read() {
        let disk = |read_only| DiskArgument { path: "d.raw".into(), read_only };
        assert_eq!("path=d.raw".parse(), Ok(disk(false)));
        assert_eq!("path=d.raw,read-only".parse(), Ok(disk(true)));
        for wrong in ["", "d.raw", "path=", "read-only", "path=d,cache=none"] {
            assert!(wrong.parse::<DiskArgument>().is_err(), "{wrong}");
        }
        assert_eq!(disk_alone("path=x"), Ok("x".into()));
        assert!(disk_alone("path=x,read-only").is_err());
    }

    #[cfg(feature = "kvm")]
    #[test]
    fn each_card_has_an_address_of_its_own() {
        assert_eq!(mac_of("a", 0), mac_of("a", 0));
        assert_ne!(mac_of("a", 0), mac_of("a", 1));
        assert!(mac_of("b", 0).is_unicast());
    }

    #[cfg(feature = "kvm")]
    #[test]
    fn entry_27_two_vms_of_one_name_on_two_hosts_have_two_addresses() {
        let one = host_of("0123456789abcdef0123456789abcdef\n").expect("a machine-id");
        let other = host_of("0123456789abcdef0123456789abcde0\n").expect("a machine-id");
        assert_ne!(mac_on(one, "demo", 0), mac_on(other, "demo", 0));
        assert_eq!(mac_on(one, "demo", 0), mac_on(one, "demo", 0));
        assert!(mac_on(other, "demo", 0).is_unicast());
        // In an image before its first boot.
        for none in ["", "uninitialized\n", "0123"] {
            assert_eq!(host_of(none), None, "{none:?}");
        }
    }
}
