//! Bridges that guests' taps are in, and whether each has a fixed address.
//!
//! Unless somebody sets its MAC, a bridge has the lowest of its ports', and another one when that port comes or goes. If
//! the bridge is the guests' gateway, they go on sending to the old MAC until their entry of it has gone stale: up to a
//! minute. A move takes a tap's MAC from one bridge and brings one to another.

use std::{fs, path::Path};

/// Where the kernel tells of interfaces.
pub const INTERFACES: &str = "/sys/class/net";
/// `NET_ADDR_SET` in `linux/netdevice.h`: somebody set it, so it does not change by itself.
const SET_BY_USER: &str = "3";

/// The bridge that a tap is in, if its MAC changes with its ports.
pub fn without_fixed_mac(interfaces: &Path, tap: &str) -> Option<String> {
    let bridge = fs::canonicalize(interfaces.join(tap).join("master")).ok()?;
    if !bridge.join("bridge").exists() {
        // A bond, a VRF, or a switch of another kind.
        return None;
    }
    let kind = fs::read_to_string(bridge.join("addr_assign_type")).ok()?;
    (kind.trim() != SET_BY_USER)
        .then(|| bridge.file_name().map(|name| name.to_string_lossy().into_owned()))?
}

/// All bridges with a tap in them whose MAC changes with their ports.
pub fn all_without_fixed_mac(interfaces: &Path) -> Vec<String> {
    let entries = fs::read_dir(interfaces).into_iter().flatten().flatten();
    let taps = entries.filter(|entry| entry.path().join("tun_flags").exists());
    let mut bridges: Vec<String> = taps
        .filter_map(|entry| without_fixed_mac(interfaces, &entry.file_name().to_string_lossy()))
        .collect();
    bridges.sort();
    bridges.dedup();
    bridges
}

/// What is to be done about one.
pub fn mend(bridge: &str) -> String {
    format!("give it one of its own: ip link set dev {bridge} address $(cat {INTERFACES}/{bridge}/address)")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn interface(root: &Path, name: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(root.join(name)).expect("a folder");
        files.iter().for_each(|(file, text)| fs::write(root.join(name).join(file), text).expect("a file"));
    }

    #[test]
    fn entry_27_a_bridge_whose_mac_changes_with_its_ports_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for (bridge, kind) in [("random", "1\n"), ("fixed", "3\n"), ("unused", "1\n")] {
            interface(root, bridge, &[("addr_assign_type", kind)]);
            fs::create_dir(root.join(bridge).join("bridge")).expect("a folder");
        }
        interface(root, "bond", &[("addr_assign_type", "1\n")]);
        for (tap, master) in [("a", "random"), ("b", "random"), ("c", "fixed"), ("d", "bond")] {
            interface(root, tap, &[("tun_flags", "0x1002\n")]);
            symlink(format!("../{master}"), root.join(tap).join("master")).expect("a link");
        }
        interface(root, "alone", &[("tun_flags", "0x1002\n")]);
        interface(root, "uplink", &[]);
        symlink("../unused", root.join("uplink").join("master")).expect("a link");

        assert_eq!(without_fixed_mac(root, "a").as_deref(), Some("random"));
        for fine in ["c", "d", "alone", "absent"] {
            assert_eq!(without_fixed_mac(root, fine), None, "{fine}");
        }
        assert_eq!(all_without_fixed_mac(root), ["random"]);
        assert!(mend("random").contains("ip link set dev random address"));
    }
}
