//! What a Linux host permits and offers, to any who ask: the VMM, the engine, the `ferry` command or the harness.
//!
//! - [`scheduling`]: how soon a thread gets its processor;
//! - [`network`]: namespaces, bridges and taps, and who may make them.

pub mod network;
pub mod scheduling;
