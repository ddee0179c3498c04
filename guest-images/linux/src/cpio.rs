//! Initial RAM disks: cpio archives in the "newc" form that the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

/// An archive under way. Everything belongs to root.
pub struct Archive<W: Write> {
    output: W,
    /// Also the number of entries: each is a file of its own.
    last_inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive, written to `output` as it grows.
    pub fn new(output: W) -> Self {
        Self { output, last_inode: 0, directories: BTreeSet::new() }
    }

    /// A directory, with those above it. One that is there already is left alone.
    ///
    /// # Errors
    /// If the output takes no more.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parent_of(path)?;
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, &[])
    }

    /// A file that anybody may read, and run if `mode` says so (`0o755`).
    ///
    /// # Errors
    /// If the output takes no more.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent_of(path)?;
        self.entry(path, FILE | mode, bytes)
    }

    /// A copy of a file of this machine, named in the error if it cannot be read.
    ///
    /// # Errors
    /// If it cannot be read, or the output takes no more.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> io::Result<()> {
        let bytes =
            fs::read(from).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))?;
        self.file(path, mode, &bytes)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// If the output takes no more.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.parent_of(path)?;
        self.entry(path, SYMLINK, target.as_bytes())
    }

    /// The end of the archive.
    ///
    /// # Errors
    /// If the output takes no more.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn parent_of(&mut self, path: &str) -> io::Result<()> {
        path.rsplit_once('/').map_or(Ok(()), |(parent, _)| self.directory(parent))
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.last_inode += 1;
        let size = u32::try_from(bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{path}: 4 GiB or more")))?;
        let name_size = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, size, device and special device (major, minor each), name size, check.
        let fields = [self.last_inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        header.extend(path.as_bytes());
        header.push(0);
        header.resize(header.len().next_multiple_of(4), 0);
        self.output.write_all(&header)?;
        self.output.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.output.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of an archive's entries: path, mode, content.
    fn parse(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&archive[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(archive[110 + name_size - 1], 0);
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, mode as u32, archive[data..data + size].to_vec()));
            archive = &archive[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn entries_are_aligned_and_directories_come_first_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/bin/one", 0o755, b"12345").unwrap();
        archive.file("bin/two", 0o644, b"").unwrap();
        archive.symlink("bin/sh", "one").unwrap();
        archive.directory("bin").unwrap();
        let entries = parse(&archive.finish().unwrap());
        let expected = [
            ("bin", 0o040_755, &b""[..]),
            ("bin/one", 0o100_755, b"12345"),
            ("bin/two", 0o100_644, b""),
            ("bin/sh", 0o120_777, b"one"),
        ];
        assert_eq!(entries.len(), expected.len());
        for (entry, (path, mode, bytes)) in entries.iter().zip(expected) {
            assert_eq!((entry.0.as_str(), entry.1, entry.2.as_slice()), (path, mode, bytes));
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Archive::new(Vec::new()).copy("x", 0o644, Path::new("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
