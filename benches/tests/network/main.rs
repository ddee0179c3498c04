//! The network of namespaces, as the kernel builds it. Skipped by name where the kernel permits none.

mod fake_guest;
mod gone;
#[path = "../held/mod.rs"]
mod held;
mod moves;
mod shaped;
mod unprivileged;

use benches::network::{Network, NetworkConfig, NetworkError};

/// A network, or nothing where none may be made; then the test says so by its name.
pub fn network(name: &str, config: &NetworkConfig) -> Option<Network> {
    match Network::up(config) {
        Ok(network) => Some(network),
        Err(NetworkError::Namespace { cause, .. })
            if cause.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) =>
        {
            println!("skipped: {name}: this user may not make network namespaces: {cause}");
            None
        }
        Err(error) => panic!("{}", migrator::report::in_words(&error)),
    }
}
