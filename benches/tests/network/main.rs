//! The network of namespaces, as the kernel builds it. Skipped by name where the kernel permits none.

mod fake_guest;
mod gone;
#[path = "../held/mod.rs"]
mod held;
mod moves;
mod shaped;
mod unprivileged;

use benches::network::{Network, NetworkConfig};
use migrator::report::in_words;

/// A network, or nothing where none may be made; then the test says so by its name.
pub fn network(name: &str, config: &NetworkConfig) -> Option<Network> {
    if let Err(refusal) = migrator::host_network::permitted() {
        println!("skipped: {name}: {}", in_words(&refusal));
        return None;
    }
    Some(Network::up(config).unwrap_or_else(|error| panic!("{}", in_words(&error))))
}
