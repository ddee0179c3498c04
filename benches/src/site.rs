//! Where runs take place: on the host itself, or in a network on it, with a client that asks the guest or without.

use std::time::Duration;

use anyhow::{Context, Result};
use migrator::report::in_words;

use crate::{
    command::Compare,
    network::{self, Bandwidth, Network, NetworkConfig},
};

/// Decided once, before anything is measured.
#[derive(Debug)]
pub struct Site {
    /// Each run has a network of its own, so that no bridge remembers where the guest of another was. This is how long
    /// frames are on the link.
    network: Option<Duration>,
    has_client: bool,
}

impl Site {
    /// Finds out what this host permits, and says so if there can be no client. An ordinary user's process moves into a
    /// user namespace, so it must have one thread.
    ///
    /// # Errors
    /// If the user asks for a link that cannot be had.
    pub fn prepare(options: &Compare) -> Result<Site> {
        let configs: Vec<NetworkConfig> = options
            .choices()
            .links
            .iter()
            .map(|&bandwidth| NetworkConfig { bandwidth, delay: options.delay })
            .collect();
        let is_shaped = configs.iter().any(|config| *config != NetworkConfig::default());
        // A simulated guest has no network to be asked over; its pages may go over a link all the same.
        let has_client = !options.no_client && !options.simulated;
        if !has_client && !is_shaped {
            return Ok(Site { network: None, has_client });
        }
        // Built once to see whether it can be; nothing is left of it.
        match network::prepare()
            .and_then(|_| configs.iter().try_for_each(|config| Network::up(config).map(drop)))
        {
            Ok(()) => Ok(Site { network: Some(options.delay), has_client }),
            Err(error) if is_shaped => {
                Err(error).context("build the network that --link and --delay ask for")
            }
            Err(error) => {
                println!(
                    "NO CLIENT: {}. Downtime is told by the guest's and the engine's clocks only.",
                    in_words(&error)
                );
                Ok(Site { network: None, has_client: false })
            }
        }
    }

    /// Guests turned out to be simulated: nobody can ask them anything.
    pub fn without_client(self) -> Site {
        Site { has_client: false, ..self }
    }

    /// A client asks the guest while it moves.
    pub fn has_client(&self) -> bool {
        self.has_client
    }

    /// For a run over such a link; nothing if it is made on the host itself.
    ///
    /// # Errors
    /// If it cannot be built any more.
    pub fn network(&self, bandwidth: Option<Bandwidth>) -> Result<Option<Network>> {
        self.network
            .map(|delay| Network::up(&NetworkConfig { bandwidth, delay }))
            .transpose()
            .context("build a network")
    }
}
