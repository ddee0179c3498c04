//! How much memory there is for a guest: what the host has available, and what the memory cgroups of this process leave.
//!
//! A process that takes more than its cgroup may have is killed without a word, so both are looked at before any memory is
//! taken, and told in words.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What is available by the time it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// MemAvailable of `/proc/meminfo`, in bytes.
    pub host: u64,
    /// The memory cgroup that leaves the least, if any has a limit.
    pub cgroup: Option<CgroupRoom>,
}

/// What a memory cgroup leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoom {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes up to its limit; files that it keeps in memory count as free.
    pub left: u64,
}

impl Room {
    /// Asks the host and this process's cgroups; `None` if the host does not tell.
    pub fn now() -> Option<Room> {
        let host = parse_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let cgroup = cgroup_room(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        Some(Room { host, cgroup })
    }

    /// The least of all, in bytes.
    pub fn bytes(&self) -> u64 {
        self.cgroup.as_ref().map_or(self.host, |cgroup| cgroup.left.min(self.host))
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this host has {} available, and ", shown(self.host))?;
        match &self.cgroup {
            Some(cgroup) => {
                write!(f, "the memory cgroup {} leaves {}", cgroup.folder.display(), shown(cgroup.left))
            }
            None => write!(f, "no memory cgroup sets a limit"),
        }
    }
}

/// Bytes as people read them: sizes of memory are in MiB.
pub(crate) fn shown(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{bytes} B") } else { format!("{} MiB", bytes >> 20) }
}

/// What a machine takes beside its guest's memory at the most, in bytes: page tables on the host and in KVM, a bit a page
/// here and there, and what pages are received in.
pub(crate) fn overhead_bytes(memory_bytes: u64) -> u64 {
    const FIXED: u64 = 16 << 20;
    FIXED + memory_bytes / 128
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Of those that this process is in, by `/proc/self/cgroup` and `/proc/self/mountinfo` (Documentation/admin-guide/cgroup-v2.rst
/// and cgroup-v1/memory.rst): either version may have the memory controller.
fn cgroup_room(cgroups: &str, mounts: &str) -> Option<CgroupRoom> {
    let mounted = mounts.lines().filter_map(|line| mount_of_memory(line, cgroups));
    let folders = mounted.flat_map(|(top, own)| {
        let above: Vec<PathBuf> =
            own.ancestors().take_while(|folder| folder.starts_with(&top)).map(Path::to_owned).collect();
        above
    });
    folders.filter_map(|folder| room_in(&folder)).min_by_key(|room| room.left)
}

/// Where cgroups are mounted that may limit memory, and this process's own folder there.
fn mount_of_memory(line: &str, cgroups: &str) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let is_of_memory = |controllers: &str| match name {
        "cgroup2" => controllers.is_empty(),
        _ => controllers.split(',').any(|controller| controller == "memory"),
    };
    if name != "cgroup2" && !(name == "cgroup" && is_of_memory(options)) {
        return None;
    }
    let own = cgroups.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        is_of_memory(controllers).then_some(path)
    })?;
    let mut place = place.split(' ').skip(3);
    let (root, top) = (place.next()?, PathBuf::from(place.next()?));
    // In a container the path may be one of the host, whose folders are not to be seen from inside.
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    let folder = top.join(below);
    Some((top, folder))
}

fn room_in(folder: &Path) -> Option<CgroupRoom> {
    let number =
        |file: &str| -> Option<u64> { fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok() };
    // "max", which is no number, is no limit; version 1 says so by one beyond all memory.
    let limit =
        number("memory.max").or_else(|| number("memory.limit_in_bytes")).filter(|&limit| limit < 1 << 62)?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let files: u64 =
        ["inactive_file", "active_file"].iter().filter_map(|name| statistic(&statistics, name)).sum();
    Some(CgroupRoom { folder: folder.to_owned(), left: limit.saturating_sub(used.saturating_sub(files)) })
}

/// Version 1 has a line of its own for a cgroup together with those in it.
fn statistic(statistics: &str, name: &str) -> Option<u64> {
    let value = |name: &str| {
        statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    value(&format!("total_{name}")).or_else(|| value(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_available("MemTotal: 9 kB\n"), None);
        assert_eq!(parse_available("MemAvailable: many kB\n"), None);
    }

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(folder.join("vms/one")).expect("a folder");
            Folder(folder)
        }

        fn put(&self, file: &str, contents: &str) {
            fs::write(self.0.join(file), contents).expect("writes");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    /// Issue 12, entry 13: the tightest limit counts, wherever above it is; files in memory can be had back.
    #[test]
    fn entry_13_a_cgroups_limit_is_found_in_either_version() {
        let top = Folder::new("entry-13-v2");
        let mounts = format!(
            "31 23 0:28 / /tmp rw - tmpfs tmpfs rw\n41 31 0:38 / {} rw,relatime - cgroup2 cgroup2 rw\n",
            top.0.display()
        );
        let room = |own: &str| cgroup_room(&format!("0::{own}\n"), &mounts);
        assert_eq!(room("/vms/one"), None, "nothing is told");
        top.put("vms/one/memory.max", "max\n");
        top.put("vms/one/memory.current", "500\n");
        assert_eq!(room("/vms/one"), None, "no limit");
        top.put("vms/memory.max", "10000\n");
        top.put("vms/memory.current", "7000\n");
        top.put("vms/memory.stat", "anon 3\ninactive_file 500\nactive_file 1500\n");
        let found = room("/vms/one").expect("the one above has a limit");
        assert_eq!(found, CgroupRoom { folder: top.0.join("vms"), left: 5000 });
        top.put("vms/one/memory.max", "600\n");
        assert_eq!(room("/vms/one").expect("its own").left, 100, "the tighter one");
        top.put("vms/one/memory.current", "700\n");
        assert_eq!(room("/vms/one").expect("its own").left, 0, "more than allowed is in use");
        assert_eq!(room("/elsewhere"), None);

        let top = Folder::new("entry-13-v1");
        let mounts = format!("35 31 0:32 /box {} rw - cgroup cgroup rw,memory\n", top.0.display());
        let room = |own: &str| cgroup_room(&format!("5:cpu:/\n4:memory:{own}\n0::/\n"), &mounts);
        top.put("vms/one/memory.limit_in_bytes", "9223372036854771712\n");
        top.put("vms/one/memory.usage_in_bytes", "10\n");
        assert_eq!(room("/box/vms/one"), None, "no limit");
        top.put("memory.limit_in_bytes", "1000\n");
        top.put("memory.usage_in_bytes", "900\n");
        top.put("memory.stat", "inactive_file 1\ntotal_inactive_file 300\n");
        assert_eq!(room("/box/vms/one").expect("the outermost").left, 400);
        assert_eq!(room("/not/seen/from/here").expect("what is seen").left, 400);
    }

    #[test]
    fn entry_13_both_numbers_are_said() {
        let mut room = Room { host: 9 << 20, cgroup: None };
        assert_eq!(
            (room.bytes(), room.to_string().as_str()),
            (9 << 20, "this host has 9 MiB available, and no memory cgroup sets a limit")
        );
        room.cgroup = Some(CgroupRoom { folder: "/sys/fs/cgroup/vms".into(), left: 400 });
        let words = "this host has 9 MiB available, and the memory cgroup /sys/fs/cgroup/vms leaves 400 B";
        assert_eq!((room.bytes(), room.to_string().as_str()), (400, words));
    }
}
