//! The client of a guest on the move.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{
    interrupt,
    network::{GUEST_ADDRESS, Network, Side},
    probe::{self, MigrationWindow, Probe, ProbeConfig},
    results::{Phases, Request, Run},
};

/// How long it asks before the migration, and after it: a thousand requests each, for percentiles that mean something.
const BESIDE: Duration = Duration::from_secs(1);

/// A client at work.
pub struct Client {
    probe: Probe,
}

impl Client {
    /// Lets it ask for a while, so that it is known how the service is when nothing happens.
    ///
    /// # Errors
    /// If it cannot reach the guest.
    pub fn start(network: &Network) -> Result<Client> {
        let config = ProbeConfig::of_guest(GUEST_ADDRESS);
        let probe = network.in_namespace(Side::Client, || Probe::start(&config))??;
        thread::sleep(BESIDE);
        interrupt::check()?;
        Ok(Client { probe })
    }

    /// Lets it ask for a while longer, and notes what it saw. Returns its requests, on the axis of the run's phases.
    pub fn finish(self, window: &MigrationWindow, run: &mut Run) -> Vec<Request> {
        thread::sleep(BESIDE);
        let recording = self.probe.finish();
        let origin_ns = Phases::origin_ns(window, run);
        run.client = Some(probe::report(&recording, window, origin_ns));
        run.phases = Phases::of(window, run);
        origin_ns.map(|origin_ns| Request::all_of(&recording, origin_ns)).unwrap_or_default()
    }
}
