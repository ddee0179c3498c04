//! A host's initial RAM disk: busybox, the modules, `ferry`, the agent and, for clients, curl.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use linux_guest::{
    cpio::Archive,
    curl::Curl,
    debian::Debian,
    image::{put_busybox, put_modules},
    modules::Modules,
};

/// What a host's kernel needs beside what is built into it: its own devices, machines for guests, their networks, and
/// bad links.
const MODULES: [&str; 15] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "kvm-amd",
    "tun",
    "veth",
    "bridge",
    "sch_netem",
    "sch_tbf",
    "sch_ingress",
    "loop",
    "ext4",
    "af_packet",
];

/// The programs that a host has in `/bin` beside busybox.
pub(super) struct Programs {
    /// The command that is tested, a static program.
    pub ferry: PathBuf,
    /// Who runs commands there.
    pub agent: PathBuf,
    /// For who looks on, if somebody does: with its libraries it is half as large as all the rest.
    pub curl: Option<Curl>,
}

/// Writes the RAM disk to `path`. `files` are the user's own: where from, and where to.
pub(super) fn write(
    path: &Path,
    debian: &Debian,
    programs: &Programs,
    files: &[(PathBuf, String)],
) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    archive.file("etc/inittab", 0o644, include_bytes!("files/inittab"))?;
    archive.file("etc/rcS", 0o755, include_bytes!("files/rcS"))?;
    archive.file("etc/profile", 0o644, include_bytes!("files/profile"))?;
    put_busybox(&mut archive, debian)?;
    archive.symlink("bin/init", "busybox")?;
    archive.copy("bin/ferry", 0o755, &programs.ferry)?;
    archive.copy("bin/host-agent", 0o755, &programs.agent)?;
    archive.symlink("bin/shape", "host-agent")?;
    archive.symlink("bin/nanoseconds", "host-agent")?;
    if let Some(curl) = &programs.curl {
        curl.put(&mut archive)?;
    }
    let modules = Modules::of(&debian.modules)?.in_load_order(&MODULES)?;
    put_modules(&mut archive, "modules/order", &modules)?;
    for (from, to) in files {
        archive.copy(to, 0o755, from)?;
    }
    archive.finish()?;
    Ok(())
}
