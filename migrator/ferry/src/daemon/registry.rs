//! The names of the VMs of one user on this host: a control socket and a console socket each, in a folder of the user's.

mod error;

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

pub use error::RegistryError;
use error::system;
use rustix::{
    fs::{FlockOperation, flock},
    net::sockopt::socket_peercred,
    process::getuid,
};

use engine::vm::is_name;

/// The longest path a socket can have, with its closing zero (`sun_path` of unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 108;

/// How many logs of VMs that are gone are kept, and for how long.
const MAX_LOGS: usize = 50;
const MAX_LOG_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The folder of names.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// The user's: `$XDG_RUNTIME_DIR/ferry`, else `/tmp/ferry-UID`. Makes it if need be, and checks that nobody else can
    /// reach into it.
    ///
    /// # Errors
    /// If it cannot be made or is not the user's own.
    pub fn open() -> Result<Registry, RegistryError> {
        let uid = getuid().as_raw();
        let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir).join("ferry"),
            None => PathBuf::from(format!("/tmp/ferry-{uid}")),
        };
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(system("make the folder", &folder)(error));
            }
            _ => {}
        }
        // Not through a link that somebody else put there.
        let found = fs::symlink_metadata(&folder).map_err(system("look at", &folder))?;
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
            return Err(RegistryError::NotOurs { path: folder });
        }
        Ok(Registry { folder })
    }

    /// Where a VM's control socket is.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }

    /// Where a VM's console socket is.
    pub fn console(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.console"))
    }

    /// Where a detached VM's words go.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The names of all that live; what the dead left behind is removed.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, RegistryError> {
        let _lock = self.lock()?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(system("read", &self.folder))?.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = file.strip_suffix(".sock")
                && !self.bury(name)
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The process that has a name, as far as the kernel knows: also of one that does not answer.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let stream = UnixStream::connect(self.socket(name)).ok()?;
        let peer = socket_peercred(&stream).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// Takes a name and listens there.
    ///
    /// # Errors
    /// If it is taken, or no name.
    pub fn claim(&self, name: &str) -> Result<Claim, RegistryError> {
        check(name)?;
        let _lock = self.lock()?;
        self.claim_locked(name)
    }

    /// Takes the first that is free of `base`, `base-2`, `base-3` …
    ///
    /// # Errors
    /// If `base` is no name.
    pub fn claim_numbered(&self, base: &str) -> Result<Claim, RegistryError> {
        check(base)?;
        let _lock = self.lock()?;
        let mut number = 1;
        loop {
            let name = if number == 1 { base.to_owned() } else { format!("{base}-{number}") };
            match self.claim_locked(&name) {
                Err(RegistryError::Taken { .. }) => number += 1,
                result => return result,
            }
        }
    }

    fn claim_locked(&self, name: &str) -> Result<Claim, RegistryError> {
        let (socket, console) = (self.socket(name), self.console(name));
        if console.as_os_str().len() >= MAX_SOCKET_PATH_BYTES {
            return Err(RegistryError::TooLong { path: console });
        }
        if !self.bury(name) {
            return Err(RegistryError::Taken { name: name.to_owned() });
        }
        let listen = |path: &Path| UnixListener::bind(path).map_err(system("listen at", path));
        let control = listen(&socket)?;
        let console = listen(&console).inspect_err(|_| remove(&socket))?;
        self.bury_logs();
        Ok(Claim { registry: self.clone(), name: name.to_owned(), control, console })
    }

    /// Whether nobody lives there (any more); removes what was left.
    fn bury(&self, name: &str) -> bool {
        let socket = self.socket(name);
        match UnixStream::connect(&socket) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) =>
            {
                remove(&socket);
                remove(&self.console(name));
                true
            }
            // Who is too busy to be reached lives.
            _ => false,
        }
    }

    /// Removes logs of VMs that are gone: the old ones, and all but the last few. Fails silently: nothing depends on it.
    fn bury_logs(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let is_alive = |name: &str| self.socket(name).exists();
        let mut logs: Vec<_> = entries
            .flatten()
            .filter(|entry| {
                let file = entry.file_name().to_string_lossy().into_owned();
                file.strip_suffix(".log").is_some_and(|name| !name.starts_with('.') && !is_alive(name))
            })
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        logs.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        let is_old = |written: SystemTime| written.elapsed().is_ok_and(|age| age > MAX_LOG_AGE);
        for (number, (written, path)) in logs.iter().enumerate() {
            if number >= MAX_LOGS || is_old(*written) {
                remove(path);
            }
        }
    }

    /// One process at a time looks for free names and takes one.
    fn lock(&self) -> Result<File, RegistryError> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).map_err(system("open", &path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|e| system("lock", &path)(e.into()))?;
        Ok(file)
    }
}

/// A name that is ours while this lives.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    name: String,
    /// Where the API is asked.
    pub control: UnixListener,
    /// Where the console is reached.
    pub console: UnixListener,
}

impl Claim {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Goes by another name from here on. Whoever is connected stays so.
    ///
    /// # Errors
    /// If that is taken; the old name is ours still.
    pub fn rename(&mut self, name: &str) -> Result<(), RegistryError> {
        check(name)?;
        let _lock = self.registry.lock()?;
        if !self.registry.bury(name) {
            return Err(RegistryError::Taken { name: name.to_owned() });
        }
        let (from, to) = (self.registry.console(&self.name), self.registry.console(name));
        fs::rename(&from, to).map_err(system("rename", &from))?;
        let (from, to) = (self.registry.socket(&self.name), self.registry.socket(name));
        fs::rename(&from, to).map_err(system("rename", &from))?;
        // Only a process in the background has one.
        fs::rename(self.registry.log(&self.name), self.registry.log(name)).ok();
        name.clone_into(&mut self.name);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.registry.socket(&self.name));
        remove(&self.registry.console(&self.name));
    }
}

/// A name becomes part of a path, and may come from a peer.
fn check(name: &str) -> Result<(), RegistryError> {
    is_name(name).then_some(()).ok_or_else(|| RegistryError::BadName { name: name.to_owned() })
}

/// It may be gone already.
fn remove(path: &Path) {
    fs::remove_file(path).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_23_logs_of_those_who_are_gone_are_bounded_in_number_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry { folder: folder.path().to_owned() };
        let _alive = registry.claim("alive").unwrap();
        let old = SystemTime::now() - MAX_LOG_AGE * 2;
        let write = |name: &str, written| {
            let file = File::create(registry.log(name)).unwrap();
            file.set_modified(written).unwrap();
        };
        write("alive", old);
        write("old", old);
        for number in 0..MAX_LOGS + 5 {
            write(&format!("gone-{number}"), SystemTime::now() - Duration::from_secs(number as u64));
        }
        let _next = registry.claim("next").unwrap();
        assert!(registry.log("alive").exists() && !registry.log("old").exists());
        assert!(registry.log("gone-0").exists() && !registry.log(&format!("gone-{MAX_LOGS}")).exists());
    }
}
