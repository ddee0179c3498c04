//! The right to make namespaces.

use linux_host::network::{self, Privilege, UserNamespace};

use super::NetworkError;

/// Finds out whether networks can be made here, and moves this process into a user namespace if it takes one. Call it
/// before there is a second thread: a process with more than one cannot be moved.
///
/// In a user namespace the process is root over its own networks and nothing else; files and devices are its user's as
/// before.
///
/// # Errors
/// If networks cannot be made; the process is where it was then.
pub fn prepare() -> Result<Privilege, NetworkError> {
    let privilege = network::permitted().map_err(NetworkError::NotPermitted)?;
    if privilege == Privilege::UserNamespace {
        UserNamespace::of_this_user().enter().map_err(NetworkError::UserNamespace)?;
    }
    Ok(privilege)
}
