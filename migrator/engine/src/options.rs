//! What the user may choose about a migration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::transport::PEER_TIMEOUT;

/// When digests of all memory are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Never.
    #[default]
    No,
    /// Before the guest runs on: a difference calls the migration off. The guest waits meanwhile, so
    /// this adds to the downtime. Where pages are missing at the start, after the last one.
    BeforeStart,
    /// After the start, between what the destination installed and the source's memory, which still
    /// stands as it was at the pause. Adds nothing to the downtime, but comes too late to call the
    /// migration off.
    AfterStart,
}

/// Limits and choices of one migration.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest downtime that pre-copy may plan for.
    pub downtime_limit: Duration,
    /// The most rounds of pre-copy.
    pub max_rounds: u32,
    /// The most that page data may take of the link, in bits a second.
    pub max_bandwidth: Option<u64>,
    /// How long all may take until the handover.
    pub timeout: Option<Duration>,
    /// How long the destination's host may acknowledge nothing before it counts as gone.
    pub peer_timeout: Duration,
    /// When to compare digests of all memory.
    pub verify: Verify,
    /// How long the destination may take for an answer that needs no work. A Start holds for half of it.
    pub answer_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            downtime_limit: Duration::from_millis(50),
            max_rounds: 30,
            max_bandwidth: None,
            timeout: None,
            peer_timeout: PEER_TIMEOUT,
            verify: Verify::No,
            answer_timeout: Duration::from_secs(30),
        }
    }
}
