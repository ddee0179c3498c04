use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::devices::virtio::driver::{Driver, Rig, until};
use crate::devices::virtio::hostile;

const SECTORS: u64 = 256;
const HEADER: u64 = 0x20_0000;
const DATA: u64 = 0x21_0000;
const STATUS: u64 = 0x22_0000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A file without a name, each sector of which holds its number, and a path by which it is opened anew.
fn file() -> (File, PathBuf) {
    let file = File::from(memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd"));
    for sector in 0..SECTORS {
        file.write_all_at(&[sector as u8; 512], sector * 512).expect("writes");
    }
    let path = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
    (file, path)
}

fn device(path: &Path, read_only: bool) -> (Rig, Arc<HeldDisk>, Driver) {
    device_on(path, read_only, None)
}

fn device_on(
    path: &Path,
    read_only: bool,
    memory: Option<Arc<crate::GuestMemory>>,
) -> (Rig, Arc<HeldDisk>, Driver) {
    let mut held = None;
    let make = |_| {
        let (block, disk) = Block::new(Disk::new(path, read_only).expect("a disk"));
        held = Some(disk);
        Box::new(block) as Box<dyn Function>
    };
    let rig = match memory {
        Some(memory) => Rig::with_memory(memory, make),
        None => Rig::new(make),
    };
    let driver = rig.driver(1);
    (rig, held.expect("made"), driver)
}

fn header(rig: &Rig, kind: u32, sector: u64) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    rig.memory.write(HEADER, &header).expect("in memory");
    rig.memory.write(STATUS, &[0xff]).expect("in memory");
}

/// Makes a request and returns its status and how many bytes came back.
fn ask(rig: &Rig, driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
    header(rig, kind, sector);
    let chain = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
    driver.add(0, &chain);
    driver.kick(0);
    let written = driver.wait_used(0);
    let mut status = [0];
    rig.memory.read(STATUS, &mut status).expect("in memory");
    (status[0], written)
}

fn read(rig: &Rig, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    rig.memory.read(DATA, &mut data).expect("in memory");
    data
}

#[test]
fn sectors_are_read_written_discarded_and_zeroed() {
    let (file, path) = file();
    let (rig, _, mut driver) = device(&path, false);
    driver.set_up(0);
    rig.device.open(true);
    assert_eq!((driver.read(0x100), driver.read(0x104)), (SECTORS as u32, 0));
    for word in 0..rig.memory.bitmap_words() {
        rig.memory.written().take_word(word);
    }
    let both = [(DATA + 4096, 512, true), (DATA, 512, true)];
    assert_eq!(ask(&rig, &mut driver, IN, 7, &both), (OK, 1025));
    let came = read(&rig, 8192);
    assert!(came[4096..4608].iter().all(|byte| *byte == 7) && came[..512].iter().all(|byte| *byte == 8));
    for page in [DATA, DATA + 4096, STATUS].map(|at| at / 4096) {
        assert!(rig.memory.written().is_marked(page), "what the device writes is dirty: page {page:#x}");
    }

    rig.memory.write(DATA, &[0xab; 1024]).expect("in memory");
    assert_eq!(ask(&rig, &mut driver, OUT, 254, &[(DATA, 1024, false)]), (OK, 1));
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 255 * 512).expect("reads");
    assert_eq!(sector, [0xab; 512]);
    assert_eq!(ask(&rig, &mut driver, FLUSH, 0, &[]), (OK, 1));
    assert_eq!(ask(&rig, &mut driver, GET_ID, 0, &[(DATA, 20, true)]), (OK, 21));
    assert!(read(&rig, 10) == b"ferry disk");

    let segment = |sector: u64, sectors: u32, flags: u32| {
        let bytes = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        rig.memory.write(DATA, &bytes).expect("in memory");
        [(DATA, 16, false)]
    };
    for (kind, flags, at) in [(DISCARD, 0, 8), (WRITE_ZEROES, 1, 32), (WRITE_ZEROES, 0, 64)] {
        assert_eq!(ask(&rig, &mut driver, kind, 0, &segment(at, 8, flags)), (OK, 1), "{kind} {flags}");
        for (sector, zeroed) in [(at - 1, false), (at, true), (at + 7, true), (at + 8, false)] {
            let mut bytes = [1; 512];
            file.read_exact_at(&mut bytes, sector * 512).expect("reads");
            assert_eq!(bytes == [0; 512], zeroed, "{kind}: sector {sector}");
        }
    }
    for (kind, sector, sectors, flags, status) in [
        (DISCARD, SECTORS - 1, 2, 0, IO_ERROR),
        (DISCARD, u64::MAX, 1, 0, IO_ERROR),
        (DISCARD, 0, 0, 0, IO_ERROR),
        (DISCARD, 0, 1, 1, UNSUPPORTED),
        (WRITE_ZEROES, 0, 1, 2, UNSUPPORTED),
        (WRITE_ZEROES, 0, MAX_ZERO_SECTORS + 1, 0, IO_ERROR),
    ] {
        assert_eq!(ask(&rig, &mut driver, kind, 0, &segment(sector, sectors, flags)), (status, 1));
    }
    assert_eq!(file.metadata().expect("looks").len(), SECTORS * 512, "its size stays");
}

#[test]
fn what_lies_beyond_the_end_or_is_no_request_is_refused() {
    let (_file, path) = file();
    let (rig, _, mut driver) = device(&path, false);
    driver.set_up(0);
    rig.device.open(true);
    let data = [(DATA, 512, true)];
    for (kind, sector, data, status) in [
        (IN, SECTORS, &data[..], IO_ERROR),
        (IN, u64::MAX, &data, IO_ERROR),
        (IN, u64::MAX / 512, &data, IO_ERROR),
        (IN, 0, &[(DATA, 511, true)], IO_ERROR),
        (OUT, SECTORS - 1, &[(DATA, 1024, false)], IO_ERROR),
        (DISCARD, 0, &[(DATA, 15, false)], IO_ERROR),
        (99, 0, &[], UNSUPPORTED),
    ] {
        assert_eq!(ask(&rig, &mut driver, kind, sector, data), (status, 1), "{kind} at {sector}");
    }
    // Without a place for the status, and without a whole header.
    driver.add(0, &[(HEADER, 16, false)]);
    driver.kick(0);
    assert_eq!(driver.wait_used(0), 0);
    driver.add(0, &[(HEADER, 15, false), (STATUS, 1, true)]);
    driver.kick(0);
    assert_eq!(driver.wait_used(0), 1);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (file, path) = file();
    let (rig, _, mut driver) = device(&path, true);
    driver.set_up(0);
    rig.device.open(true);
    driver.write(0x14, 0);
    assert_eq!(driver.read(0x10) >> 5 & 1, 1, "says that it is read-only");
    assert_eq!(ask(&rig, &mut driver, OUT, 0, &[(DATA, 512, false)]), (IO_ERROR, 1));
    assert_eq!(ask(&rig, &mut driver, IN, 3, &[(DATA, 512, true)]), (OK, 513));
    assert_eq!(read(&rig, 512), [3; 512]);
    // Several may read one disk; none may write it meanwhile.
    let (_second, held, _) = device(&path, true);
    held.take().expect("shared");
    let (_third, held, _) = device(&path, false);
    assert!(matches!(held.take(), Err(DiskError::Busy { .. })));
    drop(file);
}

#[test]
fn a_shared_disk_moves_with_its_guest_and_comes_back_after_a_failure() {
    let (_file, path) = file();
    let (source, source_disk, mut driver) = device(&path, false);
    source_disk.take().expect("free");
    driver.set_up(0);
    source.device.open(true);
    source.memory.write(DATA, &[0x11; 512]).expect("in memory");
    assert_eq!(ask(&source, &mut driver, OUT, 5, &[(DATA, 512, false)]), (OK, 1));
    source.close();
    // Asked for while the guest moves.
    header(&source, IN, 5);
    driver.add(0, &[(HEADER, 16, false), (DATA + 4096, 512, true), (STATUS, 1, true)]);
    let state = source.device.save();

    let (destination, disk, _) = device_on(&path, false, Some(Arc::clone(&source.memory)));
    destination.device.check(&state).expect("fits");
    destination.device.restore(&state);
    assert!(matches!(disk.take(), Err(DiskError::Busy { .. })), "not while the source has it");
    source_disk.release().expect("writes back");
    disk.take().expect("the source let go of it");
    assert!(matches!(source_disk.take(), Err(DiskError::Busy { .. })));
    // The migration failed late: the source has it back.
    disk.release().expect("nothing to write");
    source_disk.take().expect("free again");
    source_disk.release().expect("writes back");
    disk.take().expect("free");
    destination.device.open(true);
    assert_eq!(driver.wait_used(0), 513);
    let mut came = [0; 512];
    destination.memory.read(DATA + 4096, &mut came).expect("in memory");
    assert_eq!(came, [0x11; 512]);
}

#[test]
fn a_guest_whose_disk_is_elsewhere_waits_for_it() {
    let (_file, path) = file();
    let (_other, elsewhere, _) = device(&path, false);
    elsewhere.take().expect("free");
    let (rig, disk, mut driver) = device(&path, false);
    driver.set_up(0);
    rig.device.open(true);
    header(&rig, IN, 1);
    driver.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    driver.kick(0);
    rig.close();
    assert_eq!(driver.used(0), None);
    elsewhere.release().expect("nothing to write");
    disk.take().expect("free");
    rig.device.open(false);
    assert_eq!(driver.wait_used(0), 513);
}

#[test]
fn disks_that_cannot_be_used_are_refused_in_words() {
    let (file, path) = file();
    assert!(matches!(Disk::new(Path::new("/nonexistent/disk"), true), Err(DiskError::Absent { .. })));
    assert!(matches!(Disk::new(Path::new("/"), true), Err(DiskError::NotFile { .. })));
    assert!(matches!(Disk::new(Path::new("/dev/null"), true), Err(DiskError::NotFile { .. })));
    let disk = HeldDisk::new(Disk::new(&path, false).expect("a disk"));
    file.set_len(1024).expect("cuts");
    let refused = disk.take().expect_err("cut off");
    assert!(matches!(refused, DiskError::Size { bytes: 1024, expected, .. } if expected == SECTORS * 512));
    for bytes in [0, 1000] {
        file.set_len(bytes).expect("cuts");
        assert!(matches!(Disk::new(&path, false), Err(DiskError::NotSectors { .. })), "{bytes} bytes");
    }
    until("the lock is free, too", || flock_is_free(&path));
}

/// A shared lock on one byte, as QEMU takes them, for as long as the file is open.
fn byte_locked(path: &Path, byte: i64) -> File {
    let file = File::open(path).expect("opens");
    let mut lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the command reads one `struct flock`, which lives until the call returns.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    assert_eq!(taken, 0, "{}", std::io::Error::last_os_error());
    file
}

/// Whether another open file has a lock on one byte.
fn is_byte_locked(path: &Path, byte: i64) -> bool {
    let file = File::open(path).expect("opens");
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the command reads and writes one `struct flock`, which lives until the call returns.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    lock.l_type != libc::F_UNLCK as libc::c_short
}

#[test]
fn entry_27_locks_of_qemus_kind_exclude_ours_and_ours_exclude_them() {
    // What QEMU has locked: bytes 100 + n for what it does, 200 + n for what it permits nobody; 0 to read, 1 to write,
    // 2 to write what is there already, 3 to resize.
    let refused_to_writers = [101, 102, 103, 200, 201];
    let refused_to_readers = [101, 103, 200];
    for (read_only, refused) in [(false, &refused_to_writers[..]), (true, &refused_to_readers[..])] {
        let (_file, path) = file();
        let disk = HeldDisk::new(Disk::new(&path, read_only).expect("a disk"));
        for byte in (100..104).chain(200..204) {
            let other = byte_locked(&path, byte);
            match disk.take() {
                Ok(()) => assert!(!refused.contains(&byte), "read-only: {read_only}, byte {byte}"),
                Err(error @ DiskError::Busy { .. }) => {
                    assert!(refused.contains(&byte), "read-only: {read_only}, byte {byte}");
                    let said = error.to_string();
                    assert!(said.contains(&format!("process {} (", std::process::id())), "{said}");
                }
                Err(error) => panic!("{error}"),
            }
            disk.release().expect("nothing to write");
            drop(other);
        }
        // What a QEMU that comes later finds: it uses 100 and 101, and looks at 200 and 201.
        disk.take().expect("free again");
        let locked: Vec<i64> =
            (100..104).chain(200..204).filter(|&byte| is_byte_locked(&path, byte)).collect();
        match read_only {
            true => assert_eq!(locked, [100, 201, 203]),
            false => assert_eq!(locked, [100, 101, 201, 202, 203]),
        }
        disk.release().expect("nothing to write");
        assert!(!(100..204).any(|byte| is_byte_locked(&path, byte)));
    }
}

#[test]
fn entry_27_a_busy_disk_names_who_has_it_locked() {
    let (_file, path) = file();
    let disk = HeldDisk::new(Disk::new(&path, false).expect("a disk"));
    let other = File::open(&path).expect("opens");
    rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    let said = disk.take().expect_err("locked").to_string();
    assert!(said.contains(&format!("process {} (", std::process::id())), "{said}");
}

#[test]
fn entry_27_a_real_qemu_and_this_machine_exclude_each_other() {
    const NAME: &str = "entry_27_a_real_qemu_and_this_machine_exclude_each_other";
    const QEMU: &str = "qemu-system-x86_64";
    if let Err(error) = Command::new(QEMU).arg("-version").stdout(Stdio::null()).status() {
        return println!("skipped: {NAME}: {QEMU}: {error}");
    }
    let path = std::env::temp_dir().join(format!("ferry-lock-{}.raw", std::process::id()));
    File::create(&path).and_then(|file| file.set_len(SECTORS * 512)).expect("a file");
    let drive = format!("if=none,id=d,format=raw,file={}", path.display());
    let qemu = || {
        let mut command = Command::new(QEMU);
        command.args([
            "-accel",
            "tcg",
            "-machine",
            "q35",
            "-m",
            "32",
            "-nodefaults",
            "-no-user-config",
            "-S",
        ]);
        command.args(["-display", "none", "-drive", &drive, "-device", "virtio-blk-pci,drive=d"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    };
    let disk = HeldDisk::new(Disk::new(&path, false).expect("a disk"));
    let mut running = qemu();
    until("QEMU has the image locked", || is_byte_locked(&path, 101));
    let refused = disk.take();
    running.kill().and_then(|()| running.wait()).expect("ends");
    let said = refused.expect_err("QEMU has it").to_string();
    assert!(said.contains(&format!("process {} (qemu-system", running.id())), "{said}");

    disk.take().expect("QEMU has ended");
    let output = qemu().wait_with_output().expect("ends by itself");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("lock"), "{said}");
    disk.release().expect("nothing to write");
    std::fs::remove_file(&path).expect("is there");
}

fn flock_is_free(path: &Path) -> bool {
    let file = File::open(path).expect("opens");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn hostile_drivers_do_no_harm(script in proptest::collection::vec(any::<u8>(), 0..600)) {
        hostile::block(&script);
    }
}
