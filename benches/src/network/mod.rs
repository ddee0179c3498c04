//! One machine as a small network: two hosts, a client, and the links between them.
//!
//! ```text
//!  ┌ client ──────────────────────────────────────┐
//!  │  bridge "guests", 10.253.0.1                 │
//!  │     ├── source ──┐          destination ──┐  │
//!  └──────────────────┼────────────────────────┼──┘
//!  ┌ source ──────────┼────┐  ┌ destination ───┼──────┐
//!  │  bridge "guests" │    │  │  bridge "guests"      │
//!  │     ├── uplink ──┘    │  │     ├── uplink        │
//!  │     └── ferry0 (tap)  │  │     └── ferry0 (tap)  │
//!  │  migration ═══════════╪══╪═ migration            │
//!  │  10.254.0.1   (bandwidth shaped both ways)       │
//!  └───────────────────────┘  └───────────────────────┘
//! ```
//! Each box is a network namespace. The guest has one address and one MAC wherever it runs; that it moved is what the
//! bridges learn from the frames that it, or the destination for it, sends from its new place.
//!
//! Namespaces have no names. They live as long as a descriptor or a process in them does, so nothing is left of the
//! network of a harness that was killed: its interfaces never were in the host's own namespace, and the processes in
//! it die with it ([`crate::rig`] sees to that).

mod error;
mod interfaces;
mod namespace;
mod netlink;
mod privilege;
mod shape;
mod tap;

pub use error::NetworkError;
pub use privilege::prepare;
pub use shape::{Bandwidth, Shape};

use std::{net::Ipv4Addr, process::Command, time::Duration};

use namespace::Namespace;

/// The name of the tap that a guest is attached to, at the source and at the destination.
pub const TAP: &str = "ferry0";
/// The guest's MAC: locally administered, and the same on both sides.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x46, 0x45, 0x52, 0x52, 0x59];
/// The guest's address.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 2);
/// The client's address in the guests' network.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 1);
/// Bits of an address that name the guests' network.
pub const GUEST_PREFIX: u8 = 24;
/// The source's address on the link for migrations.
pub const SOURCE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// The destination's address on the link for migrations.
pub const DESTINATION_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 2);
/// Bits of an address that name the link for migrations.
const MIGRATION_PREFIX: u8 = 30;

/// The client's bridge has a MAC of its own: one that it took over from a port would change with its ports.
const CLIENT_MAC: [u8; 6] = [0x02, 0x46, 0x45, 0x52, 0x52, 0x01];

const BRIDGE: &str = "guests";
const UPLINK: &str = "uplink";
const MIGRATION: &str = "migration";

/// How the link for migrations is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Its bandwidth, each way; nothing for as fast as the kernel copies.
    pub bandwidth: Option<Bandwidth>,
    /// How long each frame is on the way, each way. Only kernels with netem can delay.
    pub delay: Duration,
}

/// A place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host that the guest is moved from.
    Source,
    /// The host that it is moved to.
    Destination,
    /// Where those are who use it.
    Client,
}

impl Side {
    /// Its name in the diagram.
    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Destination => "destination",
            Side::Client => "client",
        }
    }
}

/// Where a process runs: on a side of a network, or, without one, on the host itself.
pub type Place<'a> = Option<(&'a Network, Side)>;

/// The network. It is gone when this is dropped and the last process in it has ended.
#[derive(Debug)]
pub struct Network {
    source: Namespace,
    destination: Namespace,
    client: Namespace,
    congestion_control: Option<String>,
}

impl Network {
    /// Builds it. An ordinary user calls [`prepare`] before, when the process still has one thread.
    ///
    /// # Errors
    /// If the kernel does not permit or does not have what it takes. Nothing is left then.
    pub fn up(config: &NetworkConfig) -> Result<Network, NetworkError> {
        let (source, destination, client) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        let congestion_control = source.set_congestion_control()?;
        destination.set_congestion_control()?;
        let network = Network { source, destination, client, congestion_control };
        network.client.run(|| -> Result<(), NetworkError> {
            interfaces::bridge(BRIDGE, Some(CLIENT_MAC))?;
            interfaces::address(BRIDGE, CLIENT_ADDRESS, GUEST_PREFIX)?;
            for side in [Side::Source, Side::Destination] {
                interfaces::veth(side.name(), UPLINK, network.namespace(side))?;
                interfaces::enslave(side.name(), BRIDGE)?;
            }
            Ok(())
        })??;
        network.source.run(|| interfaces::veth(MIGRATION, MIGRATION, &network.destination))??;
        network.source.run(|| host(SOURCE_ADDRESS, config))??;
        network.destination.run(|| host(DESTINATION_ADDRESS, config))??;
        Ok(network)
    }

    /// The congestion control of TCP connections at the source and at the destination, if the kernel tells: the same for
    /// each engine whose processes run there.
    pub fn congestion_control(&self) -> Option<&str> {
        self.congestion_control.as_deref()
    }

    /// Has a command run on a side.
    ///
    /// # Errors
    /// If there is no descriptor left to hold the namespace by.
    pub fn enter(&self, side: Side, command: &mut Command) -> Result<(), NetworkError> {
        self.namespace(side).enter(command)
    }

    /// Runs `work` on a side, in a thread of its own; what it opens stays there.
    ///
    /// # Errors
    /// If the thread cannot be started, or cannot enter.
    pub fn in_namespace<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, NetworkError> {
        self.namespace(side).run(work)
    }

    /// How the link for migrations is shaped in the direction that leaves this side, as the kernel tells it.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn shape(&self, side: Side) -> Result<Shape, NetworkError> {
        self.namespace(side).run(|| shape::of(MIGRATION))?
    }

    /// Whether frames pass between the network and whoever is attached to a side's tap. The kernel looks at a cable
    /// that was plugged in a few milliseconds later, and up to a second later if another was just before.
    ///
    /// # Errors
    /// If there is no tap on this side.
    pub fn tap_forwards(&self, side: Side) -> Result<bool, NetworkError> {
        self.namespace(side).run(|| interfaces::forwards(TAP))?
    }

    fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
            Side::Client => &self.client,
        }
    }
}

/// What the source and the destination have in their namespaces.
fn host(address: Ipv4Addr, config: &NetworkConfig) -> Result<(), NetworkError> {
    interfaces::bridge(BRIDGE, None)?;
    interfaces::enslave(UPLINK, BRIDGE)?;
    tap::make(TAP)?;
    interfaces::enslave(TAP, BRIDGE)?;
    interfaces::address(MIGRATION, address, MIGRATION_PREFIX)?;
    interfaces::up(MIGRATION)?;
    shape::apply(MIGRATION, config)
}
