//! The runtime folder of one harness: control sockets live in it.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};

use super::left_over;

const PREFIX: &str = "ferry-bench-";

/// Private to the user, and removed on drop. What a killed harness left is removed by the next one.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one, in the folder for temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make() -> Result<Folder> {
        let parent = env::temp_dir();
        remove_left_over(&parent);
        let path = parent.join(format!("{PREFIX}{}", process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| {
            format!("make the folder {}: choose another place with TMPDIR", path.display())
        })?;
        Ok(Folder { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}

/// Folders of harnesses that run no more, with whatever of their processes still does. Another user's cannot be removed, and need not be.
fn remove_left_over(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            left_over::end_all(&entry.path());
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_harness_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        // No process has this id: the kernel's greatest is 2^22.
        let (left, ours) = (format!("{PREFIX}4194999"), format!("{PREFIX}{}", process::id()));
        for name in [&left, &ours, &"other".to_owned()] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        remove_left_over(parent.path());
        assert!(!parent.path().join(left).exists());
        assert!(parent.path().join(ours).exists() && parent.path().join("other").exists());
    }
}
