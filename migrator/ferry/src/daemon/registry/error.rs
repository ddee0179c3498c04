//! What can go wrong with names.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use engine::vm::MAX_NAME_BYTES;

/// Something about names went wrong.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Not a name.
    #[error(
        "{name:?} is no name: use up to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.', a letter or digit first"
    )]
    BadName {
        /// What was given.
        name: String,
    },
    /// Somebody lives there.
    #[error(
        "the name {name} is taken by a running VM: choose another with --name, or stop it with `ferry stop {name}`"
    )]
    Taken {
        /// The name.
        name: String,
    },
    /// The folder is somebody else's.
    #[error("{} belongs to another user or can be written by others: remove it, or set XDG_RUNTIME_DIR", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// The folder's path leaves no room for names.
    #[error("the path {} is too long for a socket: set XDG_RUNTIME_DIR to a shorter one", path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{operation} {}", path.display())]
    System {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// For `map_err`.
pub(super) fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    move |source| RegistryError::System { operation, path: path.to_owned(), source }
}
