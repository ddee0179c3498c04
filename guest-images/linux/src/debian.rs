//! Debian's packages: the kernel and the static busybox, where they are installed, or else downloaded and unpacked,
//! without being installed and without rights.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

const KERNEL: &str = "linux-image-cloud-amd64";
const BUSYBOX: &str = "busybox-static";
pub(crate) const CURL: &str = "curl";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// This machine has no Debian packages.
    #[error("Debian's {package} is not installed, and there is no {program} to download it")]
    NotDebian {
        /// What is needed.
        package: &'static str,
        /// What would get it.
        program: &'static str,
    },
    /// A program failed.
    #[error("Debian's {package} is not installed, and `{command}` fails: {words}")]
    NoPackage {
        /// What is needed.
        package: &'static str,
        /// What was tried.
        command: String,
        /// What it said last.
        words: String,
    },
    /// A folder or file cannot be made.
    #[error("cannot unpack Debian packages in {path}")]
    Cache {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What initial RAM disks are made of.
#[derive(Debug, Clone)]
pub struct Debian {
    /// The kernel: a bzImage that this user can read.
    pub kernel: PathBuf,
    /// Its release, as in `6.1.0-1-cloud-amd64`.
    pub release: String,
    /// Its modules, as in `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// A busybox that needs no libraries.
    pub busybox: PathBuf,
}

impl Debian {
    /// Finds both, or downloads what is not installed to `$XDG_CACHE_HOME/ferry/debian`, once.
    ///
    /// # Errors
    /// [`Missing`], if there is no way to them here.
    pub fn find() -> Result<Debian, Missing> {
        let cache = cache_directory();
        let (kernel, release, modules) =
            match installed_kernel(Path::new("/")).or_else(|| installed_kernel(&cache)) {
                Some(kernel) => kernel,
                None => {
                    download(KERNEL, &cache)?;
                    installed_kernel(&cache).ok_or_else(|| nothing_in(KERNEL, &cache))?
                }
            };
        let busybox = match installed_busybox(Path::new("/")).or_else(|| installed_busybox(&cache)) {
            Some(busybox) => busybox,
            None => {
                download(BUSYBOX, &cache)?;
                installed_busybox(&cache).ok_or_else(|| nothing_in(BUSYBOX, &cache))?
            }
        };
        Ok(Debian { kernel, release, modules, busybox })
    }
}

pub(crate) fn nothing_in(package: &'static str, cache: &Path) -> Missing {
    let words = "the package does not hold what its name says".to_owned();
    Missing::NoPackage { package, command: format!("dpkg -x {package} {}", cache.display()), words }
}

pub(crate) fn cache_directory() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("ferry/debian")
}

/// The newest cloud kernel below `root` that this user can read, with its modules.
fn installed_kernel(root: &Path) -> Option<(PathBuf, String, PathBuf)> {
    let mut releases: Vec<String> = fs::read_dir(root.join("boot"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("vmlinuz-").map(ToOwned::to_owned))
        .filter(|release| release.ends_with("-cloud-amd64"))
        .collect();
    releases.sort_by_key(|release| numbers(release));
    releases.into_iter().rev().find_map(|release| {
        let kernel = root.join("boot").join(format!("vmlinuz-{release}"));
        let modules = root.join("lib/modules").join(&release);
        (fs::File::open(&kernel).is_ok() && modules.join("kernel").is_dir())
            .then_some((kernel, release, modules))
    })
}

/// 6.1.0-10 comes after 6.1.0-9.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Debian's other busybox has the same name and needs libraries.
fn installed_busybox(root: &Path) -> Option<PathBuf> {
    ["bin/busybox", "usr/bin/busybox"].iter().map(|path| root.join(path)).find(|path| is_static(path))
}

fn is_static(program: &Path) -> bool {
    // A program that needs a loader names it in its first page.
    fs::read(program).is_ok_and(|bytes| {
        let start = &bytes[..bytes.len().min(4096)];
        start.starts_with(b"\x7fELF") && !start.windows(7).any(|window| window == b"ld-linu")
    })
}

/// Downloads a package, and what it stands for or needs, and unpacks it into `cache`.
pub(crate) fn download(package: &'static str, cache: &Path) -> Result<(), Missing> {
    let in_cache = |path: PathBuf| move |source| Missing::Cache { path, source };
    let names = real_names(package)?;
    // Unpacked aside and then moved, so that what is in the cache is whole, even if two do this at a time.
    let aside = cache_directory().with_file_name(format!("debian-{package}-{}", std::process::id()));
    fs::create_dir_all(&aside).map_err(in_cache(aside.clone()))?;
    let result = (|| {
        run(package, Command::new("apt-get").args(["download", "-q"]).args(&names).current_dir(&aside))?;
        for entry in fs::read_dir(&aside).map_err(in_cache(aside.clone()))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                run(package, Command::new("dpkg").arg("-x").arg(entry.path()).arg(aside.join("root")))?;
            }
        }
        merge(&aside.join("root"), cache).map_err(in_cache(cache.to_owned()))
    })();
    fs::remove_dir_all(&aside).map_err(in_cache(aside.clone()))?;
    result
}

/// Moves what is below `from` to `to`, file by file; what is there already stays.
fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    // Modules before the kernel, which is looked for first.
    entries.sort_by_key(|entry| entry.file_name() == "boot");
    for entry in entries {
        let target = to.join(entry.file_name());
        match fs::rename(entry.path(), &target) {
            Err(_) if target.is_dir() => merge(&entry.path(), &target)?,
            result => result?,
        }
    }
    Ok(())
}

/// `linux-image-cloud-amd64` holds nothing: it depends on the newest `linux-image-6.1.0-1-cloud-amd64`. A busybox that is
/// static needs nothing, and curl all that it depends on, and what that depends on.
fn real_names(package: &'static str) -> Result<Vec<String>, Missing> {
    if package == BUSYBOX {
        return Ok(vec![package.to_owned()]);
    }
    let mut apt = Command::new("apt-cache");
    apt.arg("depends");
    if package == CURL {
        apt.args([
            "--recurse",
            "--important",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
        ]);
        let listing = run(package, apt.arg(package))?;
        return Ok(in_first_column(&listing).map(ToOwned::to_owned).collect());
    }
    let listing = run(package, apt.arg(package))?;
    let image = listing.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let image = image.ok_or_else(|| Missing::NoPackage {
        package,
        command: format!("apt-cache depends {package}"),
        words: "no image is named (does `apt-get update` help?)".to_owned(),
    })?;
    Ok(vec![format!("linux-image-{image}")])
}

/// The packages of a listing that is recursive: indented is what each depends on, in angle brackets what is none, and
/// behind a colon another architecture.
fn in_first_column(listing: &str) -> impl Iterator<Item = &str> {
    listing
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()) && !line.contains(':'))
}

fn run(package: &'static str, command: &mut Command) -> Result<String, Missing> {
    let program = match command.get_program().to_str() {
        Some("dpkg") => "dpkg",
        Some("apt-cache") => "apt-cache",
        _ => "apt-get",
    };
    let output = command.output().map_err(|_| Missing::NotDebian { package, program })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.lines().last().unwrap_or("it says nothing").to_owned();
    Err(Missing::NoPackage { package, command: format!("{program} {}", arguments.join(" ")), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_with_modules_is_taken() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        for release in
            ["6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "6.1.0-11-cloud-amd64", "6.2.0-1-amd64"]
        {
            fs::write(root.path().join("boot").join(format!("vmlinuz-{release}")), "").unwrap();
            if !release.contains("-11-") {
                fs::create_dir_all(root.path().join("lib/modules").join(release).join("kernel")).unwrap();
            }
        }
        let (_, release, modules) = installed_kernel(root.path()).unwrap();
        assert_eq!(release, "6.1.0-10-cloud-amd64");
        assert!(modules.ends_with("lib/modules/6.1.0-10-cloud-amd64"));
    }

    #[test]
    fn packages_are_told_from_what_they_depend_on() {
        let listing = "curl\n  Depends: libc6\n |Depends: debconf\nlibc6\n<debconf-2.0>\nlibc6:i386\n";
        assert_eq!(in_first_column(listing).collect::<Vec<_>>(), ["curl", "libc6"]);
    }

    #[test]
    fn a_program_that_needs_a_loader_is_not_static() {
        let this_test = env::current_exe().unwrap();
        assert!(!is_static(&this_test));
        assert!(!is_static(Path::new("/no/such/file")));
    }

    #[test]
    fn what_is_unpacked_is_merged_into_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        for path in ["from/lib/new", "from/boot", "to/lib/old"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        merge(&from, &to).unwrap();
        assert!(["lib/new", "lib/old", "boot"].iter().all(|path| to.join(path).is_dir()));
    }
}
