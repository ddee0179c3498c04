//! The Linux guest's initial RAM disk.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

use crate::{
    cpio::Archive,
    debian::Debian,
    modules::{Module, Modules},
};

/// Drivers of the devices a guest may have.
const MODULES: [&str; 5] = ["virtio_mmio", "virtio_net", "virtio_console", "virtio_balloon", "virtio_rng"];
/// What a disk needs beside its driver, loaded only if there is one: ext4 is large.
const DISK_DRIVER: &str = "virtio_blk";
const DISK: [&str; 1] = ["ext4"];

/// Writes the RAM disk to `path`, with the static program `stamper` in it.
///
/// # Errors
/// If a part cannot be read, or `path` not written.
pub fn write(path: &Path, debian: &Debian, stamper: &Path) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    archive.file("etc/inittab", 0o644, include_bytes!("guest/inittab"))?;
    archive.file("etc/rcS", 0o755, include_bytes!("guest/rcS"))?;
    archive.file("www/index.html", 0o644, include_bytes!("guest/index.html"))?;
    archive.file("www/cgi-bin/check", 0o755, include_bytes!("guest/check"))?;
    archive.file("www/cgi-bin/clock", 0o755, include_bytes!("guest/clock"))?;
    archive.file("www/cgi-bin/disk", 0o755, include_bytes!("guest/disk"))?;
    archive.file("www/cgi-bin/dmesg", 0o755, include_bytes!("guest/dmesg"))?;
    archive.file("www/cgi-bin/ticks", 0o755, include_bytes!("guest/ticks"))?;
    put_busybox(&mut archive, debian)?;
    archive.copy("bin/stamper", 0o755, stamper)?;
    let modules = Modules::of(&debian.modules)?;
    let always = modules.in_load_order(&[&MODULES[..], &[DISK_DRIVER]].concat())?;
    let mut for_disks = modules.in_load_order(&DISK)?;
    for_disks.retain(|module| always.iter().all(|other| other.name != module.name));
    put_modules(&mut archive, "modules/order", &always)?;
    put_modules(&mut archive, "modules/order.disk", &for_disks)?;
    archive.finish()?;
    Ok(())
}

/// Puts the shell into an image, which is its first process as well.
///
/// # Errors
/// If it cannot be read, or the archive not written.
pub fn put_busybox<W: io::Write>(archive: &mut Archive<W>, debian: &Debian) -> io::Result<()> {
    archive.copy("bin/busybox", 0o755, &debian.busybox)?;
    archive.symlink("init", "bin/busybox")?;
    archive.symlink("bin/sh", "busybox")
}

/// Puts modules into an image, and at `list` their names in the order to load them in.
///
/// # Errors
/// If the archive cannot be written.
pub fn put_modules<W: io::Write>(archive: &mut Archive<W>, list: &str, modules: &[Module]) -> io::Result<()> {
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.bytes)?;
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file(list, 0o644, order.as_bytes())
}
