//! The recipe: what it makes and where it puts it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    debian::{Debian, Missing},
    image,
    static_programs::{self, BuildError},
};

/// The Linux guest, as `ferry run linux` looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxGuest {
    /// Its kernel: Debian's, as it is.
    pub kernel: PathBuf,
    /// Its initial RAM disk.
    pub initrd: PathBuf,
}

/// Why it cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// No kernel or no busybox.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The stamper does not build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file cannot be written.
    #[error("cannot write the Linux guest to {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where `ferry run linux` looks: `$FERRY_LINUX`, else `$XDG_DATA_HOME/ferry/linux`, else `~/.local/share/ferry/linux`.
pub fn default_folder() -> PathBuf {
    if let Some(folder) = env::var_os("FERRY_LINUX") {
        return folder.into();
    }
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".local/share");
    env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("ferry/linux")
}

/// Makes it in `folder`.
///
/// # Errors
/// [`RecipeError`]
pub fn make(folder: &Path) -> Result<LinuxGuest, RecipeError> {
    let debian = Debian::find()?;
    let programs = static_programs::build(&[("linux-guest", "stamper")])?;
    let guest = LinuxGuest { kernel: folder.join("vmlinuz"), initrd: folder.join("initrd") };
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| RecipeError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(at(folder))?;
    fs::copy(&debian.kernel, &guest.kernel).map_err(at(&guest.kernel))?;
    image::write(&guest.initrd, &debian, &programs.join("stamper")).map_err(at(&guest.initrd))?;
    Ok(guest)
}
