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
    /// Its address, as typed; one made from the VM's name if there is none.
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

/// An address for the card `number` of a VM, the same for the same name: locally administered, as 52:54:00 is by custom.
#[cfg(feature = "kvm")]
pub fn mac_of(name: &str, number: usize) -> vmm::MacAddress {
    let hash = twox_hash::XxHash3_64::oneshot_with_seed(number as u64, name.as_bytes()).to_le_bytes();
    vmm::MacAddress([0x52, 0x54, 0, hash[0], hash[1], hash[2]])
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
}
