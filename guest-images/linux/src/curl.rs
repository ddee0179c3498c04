//! `curl` with the libraries it needs: where it is installed, or else from Debian's packages, unpacked and not
//! installed.
//!
//! Debian has no curl without libraries. Which it needs, and where they are, is what its loader says, which can be had
//! without running it (`--list`, ld.so(8)).

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cpio::Archive,
    debian::{CURL, Missing, cache_directory, download, nothing_in},
};

/// The loader's file, wherever it lies; and where programs expect it.
const LOADER: &str = "ld-linux-x86-64.so.2";
const LOADER_PLACE: &str = "lib64/ld-linux-x86-64.so.2";

/// Where a distribution keeps its libraries, and its loader. In what is only unpacked, `lib64` may lead out of it.
const LIBRARIES: [&str; 4] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"];

/// A curl, to be put into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curl {
    program: PathBuf,
    loader: PathBuf,
    /// Where each library is, and where it goes.
    libraries: Vec<(PathBuf, PathBuf)>,
}

impl Curl {
    /// Finds it, or downloads it to `$XDG_CACHE_HOME/ferry/debian/curl`, once.
    ///
    /// # Errors
    /// [`Missing`], if there is no way to it here.
    pub fn find() -> Result<Curl, Missing> {
        let cache = cache_directory().join("curl");
        if let Some(curl) = Curl::below(Path::new("/")).or_else(|| Curl::below(&cache)) {
            return Ok(curl);
        }
        download(CURL, &cache)?;
        Curl::below(&cache).ok_or_else(|| nothing_in(CURL, &cache))
    }

    /// The curl below `root`, if it is there with all it needs.
    fn below(root: &Path) -> Option<Curl> {
        let first = |paths: &[&str], name: &str| {
            paths.iter().map(|path| root.join(path).join(name)).find(|path| path.is_file())
        };
        let program = first(&["usr/bin", "bin"], "curl")?;
        let loader = first(&LIBRARIES, LOADER)?;
        let folders: Vec<String> =
            LIBRARIES.iter().map(|path| root.join(path).display().to_string()).collect();
        let list = Command::new(&loader)
            .args(["--inhibit-cache", "--library-path", &folders.join(":"), "--list"])
            .arg(&program)
            .output()
            .ok()?;
        let libraries = libraries(&String::from_utf8_lossy(&list.stdout), root)?;
        list.status.success().then_some(Curl { program, loader, libraries })
    }

    /// Puts it into an image as `/bin/curl`.
    ///
    /// # Errors
    /// If a part cannot be read, or the archive not written.
    pub fn put<W: Write>(&self, archive: &mut Archive<W>) -> io::Result<()> {
        archive.copy("bin/curl", 0o755, &self.program)?;
        archive.copy(LOADER_PLACE, 0o755, &self.loader)?;
        for (from, to) in &self.libraries {
            archive.copy(&to.to_string_lossy(), 0o644, from)?;
        }
        Ok(())
    }

    /// The bytes it takes in an image.
    pub fn bytes(&self) -> u64 {
        let libraries = self.libraries.iter().map(|(from, _)| from);
        let files = libraries.chain([&self.program, &self.loader]);
        files.filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
    }
}

/// The libraries that a loader lists, where they are and where that is below `root`. `None` if one was not found there.
fn libraries(list: &str, root: &Path) -> Option<Vec<(PathBuf, PathBuf)>> {
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f…)`, and a line without an arrow for what the kernel
    // brings along.
    let lines = list.lines().filter_map(|line| line.trim().split_once(" => "));
    let found = lines.filter(|(name, _)| !name.ends_with(LOADER)).map(|(_, place)| {
        let path = Path::new(place.rsplit_once(" (")?.0);
        Some((path.to_owned(), path.strip_prefix(root).ok()?.to_owned()))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\tlinux-vdso.so.1 (0x00007f8cbbc4e000)\n\
        \tlibz.so.1 => /cache/lib/x86_64-linux-gnu/libz.so.1 (0x00007f8cbbb26000)\n\
        \tlibc.so.6 => /cache/usr/lib/libc.so.6 (0x00007f8cbb944000)\n\
        \t/lib64/ld-linux-x86-64.so.2 => /cache/lib64/ld-linux-x86-64.so.2 (0x00007f8cbbc50000)\n";

    #[test]
    fn libraries_go_where_they_are() {
        let expected = [
            ("/cache/lib/x86_64-linux-gnu/libz.so.1", "lib/x86_64-linux-gnu/libz.so.1"),
            ("/cache/usr/lib/libc.so.6", "usr/lib/libc.so.6"),
        ];
        let expected = expected.map(|(from, to)| (from.into(), to.into())).to_vec();
        assert_eq!(libraries(LIST, Path::new("/cache")), Some(expected));
    }

    #[test]
    fn a_library_that_is_not_there_or_is_this_machines_is_none() {
        let missing = format!("{LIST}\tlibssl.so.3 => not found\n");
        assert_eq!(libraries(&missing, Path::new("/cache")), None);
        let other = format!("{LIST}\tlibssl.so.3 => /lib/libssl.so.3 (0x00007f8cbb7c5000)\n");
        assert_eq!(libraries(&other, Path::new("/cache")), None);
        assert_eq!(Curl::below(Path::new("/no/such/folder")), None);
    }
}
