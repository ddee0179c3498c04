//! What an outside client saw of one migration.

use serde::{Deserialize, Serialize};

/// The third clock: see [`crate::probe`]. In a run it stands beside the engine's and the guest's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    /// The longest time between two responses that came one after the other, while the guest was moved: for so long
    /// nobody was answered. Requests are a millisecond apart, so an idle service has gaps of a millisecond, too. If
    /// answers ceased for good, until the end of the run.
    pub downtime_client_us: Option<u64>,
    /// The longest time between two responses that reaches into the switchover: what of the figure above the switchover
    /// is the cause of. Nothing if the guest did not move,
    /// and in results that are older than this figure.
    #[serde(default)]
    pub switchover_client_us: Option<u64>,
    /// The longest time from the scheduled send of a request to its response, of all that waited while the guest was
    /// moved: what the unluckiest user saw. It is shorter than the gap by up to the time between two requests.
    pub longest_response_us: Option<u64>,
    /// HTTP requests, over the whole run.
    pub requests_sent: u64,
    /// Those of them that were not answered before the end of the run: they, or the answers, were lost, or the
    /// connection broke.
    pub requests_lost: u64,
    /// Connections that broke.
    pub connections_reset: u64,
    /// Answers that were no HTTP, or not status 200.
    pub responses_malformed: u64,
    /// Segments that the client's kernel sent again, by its TCP_INFO, over all connections. It does so also when an
    /// answer takes long and nothing was lost.
    pub retransmissions: u64,
    /// Response times of those requests that were answered.
    pub response_us: ResponseTimes,
    /// How much worse it was while the guest was moved; nothing if there were no requests before or meanwhile.
    pub brownout: Option<Brownout>,
    /// From the end of the switchover to the first of 50 requests in a row whose median response time was within 5 %
    /// of the median before the migration; nothing if that did not come.
    pub recovery_us: Option<u64>,
    /// The datagrams; nothing if none were sent.
    pub udp: Option<UdpReport>,
    /// Bytes of the checked stream that came back; nothing if there was none.
    pub stream_bytes_checked: Option<u64>,
    /// Those of them that were wrong.
    pub stream_errors: Option<u64>,
    /// How late the probe itself was: what of the times above may be its own.
    pub probe_stalls_us: Option<Percentiles>,
}

/// Response times of the requests that were scheduled before the command to migrate, between it and the end of the
/// migration, and after that; nothing where there were none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseTimes {
    /// Before.
    pub before: Option<Percentiles>,
    /// While the guest was moved.
    pub during: Option<Percentiles>,
    /// After.
    pub after: Option<Percentiles>,
}

/// Of a set of times, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half were no longer.
    pub p50: u64,
    /// All but a hundredth.
    pub p99: u64,
    /// All but a thousandth.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

/// The service while the guest was moved, in hundredths of what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brownout {
    /// Responses a second; 100 is no change.
    pub throughput_percent: f64,
    /// The 99th percentile of response times; 100 is no change.
    pub p99_percent: f64,
}

/// Datagrams that the guest was to send back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpReport {
    /// How many were sent.
    pub sent: u64,
    /// How many did not come back.
    pub lost: u64,
    /// How many came back once more.
    pub duplicated: u64,
    /// How many came back after one that was sent later.
    pub reordered: u64,
    /// The longest time between two that came back one after the other, while the guest was moved.
    pub longest_gap_us: Option<u64>,
}
