//! The network service of Ferry's built-in guest, without the guest: it runs over any of smoltcp's devices, so all of it
//! but the driver is tested on the host.
//!
//! | port | service | connections at once |
//! |---|---|---|
//! | TCP 80 | HTTP/1.1: `GET /`, `GET /memory?pages=N` | [`HTTP_CONNECTIONS`] |
//! | TCP 7 | echo | [`ECHO_CONNECTIONS`] |
//! | UDP 7 | echo | |
//!
//! | module | holds |
//! |---|---|
//! | [`http`] | parser and routes, answers, and one connection's life |
//! | `slot` | a listening socket and the connection it becomes: what both TCP services share |
//! | `echo` | what the echo services do with data |
//! | `gate` | frames counted, and connection requests held back while no socket listens |
//! | [`clock`] | network time: a guest that stands still, or wakes up on another machine, loses no connection by it |
//! | [`guest`], [`memory`] | what the guest lends the services: its counters and pages, and room |
//! | [`service`] | all of it, one small step at a time |
//!
//! Whoever is at the other end is taken for hostile: every buffer is fixed, every step is bounded, and a peer that
//! hoards connections loses them when others want in.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod clock;
mod echo;
mod gate;
pub mod guest;
pub mod http;
pub mod memory;
pub mod service;
mod slot;

pub use clock::Clock;
pub use guest::{Guest, Status};
pub use memory::{Buffers, Memory, SOCKETS};
pub use service::Service;
pub use smoltcp;

/// TCP port of the HTTP service.
pub const HTTP_PORT: u16 = 80;
/// Port of both echo services.
pub const ECHO_PORT: u16 = 7;
/// HTTP connections at once.
pub const HTTP_CONNECTIONS: usize = 96;
/// TCP echo connections at once.
pub const ECHO_CONNECTIONS: usize = 32;
