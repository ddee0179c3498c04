//! Who still holds a network namespace, and what of a network the host sees. The kernel takes down what nobody holds.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// What is in a folder; nothing if it is gone.
pub fn entries(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The processes that run now, as folders under /proc.
pub fn processes() -> impl Iterator<Item = PathBuf> {
    entries(Path::new("/proc")).filter(|path| path.join("ns").exists())
}

/// The namespaces that a process is in or has a descriptor of: `net:[4026532281]`.
pub fn namespaces_of(process: &Path) -> Vec<String> {
    let of_threads = entries(&process.join("task")).map(|task| task.join("ns/net"));
    let links = of_threads.chain(entries(&process.join("fd"))).filter_map(|path| fs::read_link(path).ok());
    links.map(|to| to.to_string_lossy().into_owned()).filter(|to| to.starts_with("net:[")).collect()
}

/// Whether a process, a descriptor or a mount holds one of these namespaces.
pub fn is_held(names: &[String]) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    processes().any(|process| namespaces_of(&process).iter().any(|name| names.contains(name)))
        || names.iter().any(|name| mounts.contains(name))
}

/// Until nothing is held; a process that was killed takes a moment to let go.
pub fn wait_until_gone(names: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_held(names) {
        assert!(Instant::now() < deadline, "{names:?} are still held");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The interfaces of the host's own namespace.
pub fn host_interfaces() -> Vec<String> {
    let mut names: Vec<String> = entries(Path::new("/sys/class/net"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
