//! The network of namespaces, as the kernel builds it. Skipped by name where the kernel permits none.

mod fake_guest;
mod gone;
#[path = "../held/mod.rs"]
mod held;
mod moves;
mod shaped;
mod unprivileged;

use benches::network::{Network, NetworkConfig};
use engine::report::in_words;
use linux_host::network::{self, Privilege};

/// A network, or nothing where this process may make none; then the test says so by its name.
pub fn network(name: &str, config: &NetworkConfig) -> Option<Network> {
    let reason = match network::permitted() {
        Ok(Privilege::Root) => {
            return Some(Network::up(config).unwrap_or_else(|error| panic!("{}", in_words(&error))));
        }
        Ok(Privilege::UserNamespace) => "not root; an_ordinary_user_has_the_same_network does it".to_owned(),
        Err(refusal) => in_words(&refusal),
    };
    println!("skipped: {name}: {reason}");
    None
}
