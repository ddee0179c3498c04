//! What a Ferry guest says about itself, and how it proves its memory.
//!
//! One crate, compiled into the guest (`no_std`) and into the host, so that neither can misread the other:
//!
//! | module | holds |
//! |---|---|
//! | [`layout`] | the telemetry pages in guest-physical memory, at [`TELEMETRY_ADDRESS`] |
//! | [`gaps`] | how a gap between two steps of a guest's loop is recorded |
//! | [`oracle`] | page stamps, content generators, writers and the check that names a lost or stale page |
//! | [`command_line`] | the guest's `key=value` command line |
//! | [`snapshot`] | the host's decoder of the telemetry pages (feature `std`) |
//!
//! The guest writes telemetry with plain relaxed stores, and the host reads it while the guest runs. Nothing here locks:
//! every value is one aligned 64-bit word, and records of several words carry a seal that a torn read fails.
#![no_std]

#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod command_line;
pub mod gaps;
pub mod layout;
mod network;
pub mod oracle;
#[cfg(feature = "std")]
pub mod snapshot;
mod words;

pub use command_line::{CommandLine, DirtyRate, Idle};
pub use layout::{
    CHECK_REQUEST_ADDRESS, GAP_EPOCH_ADDRESS, MAX_VCPUS, Phase, STOP_REQUEST_ADDRESS, TELEMETRY_ADDRESS,
    TELEMETRY_BYTES, Telemetry,
};
pub use network::NetworkCounters;
pub use oracle::{Fill, PAGE_SIZE, Pattern, Stamp, verify_page};
#[cfg(feature = "std")]
pub use snapshot::Snapshot;
#[cfg(feature = "std")]
pub use snapshot::SnapshotError;
