//! Where runs take place: on the host itself, or in a network on it, with a client that asks the guest or without.

use std::time::Duration;

use anyhow::{Context, Result};
use engine::report::in_words;

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
    /// Of the links in those networks.
    congestion_control: Option<String>,
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
            return Ok(Site { network: None, has_client, congestion_control: None });
        }
        // Built once to see whether it can be; nothing is left of it.
        let congestion_control = |config| Ok(Network::up(config)?.congestion_control().map(str::to_owned));
        match network::prepare()
            .and_then(|_| configs.iter().map(congestion_control).collect::<Result<Vec<_>, _>>())
        {
            Ok(each) => Ok(Site {
                network: Some(options.delay),
                has_client,
                congestion_control: each.into_iter().flatten().next(),
            }),
            Err(error) if is_shaped => {
                Err(error).context("build the network that --link and --delay ask for")
            }
            Err(error) => {
                println!(
                    "NO CLIENT: {}. Downtime is told by the guest's and the engine's clocks only.",
                    in_words(&error)
                );
                Ok(Site { network: None, has_client: false, congestion_control: None })
            }
        }
    }

    /// Guests turned out to be simulated: nobody can ask them anything.
    pub fn without_client(self) -> Site {
        Site { has_client: false, ..self }
    }

    /// The TCP congestion control of both engines' links, if runs have a network of their own.
    pub fn congestion_control(&self) -> Option<&str> {
        self.congestion_control.as_deref()
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
