//! What a guest's network service counts.

use core::sync::atomic::Ordering::Relaxed;

use crate::layout::NetworkPart;

/// What a guest's network service did since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetworkCounters {
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// TCP connections accepted.
    pub connections: u64,
    /// HTTP requests answered, whatever the answer.
    pub requests: u64,
    /// UDP datagrams echoed.
    pub datagrams: u64,
    /// Requests refused, connections given up, and frames there was no room for.
    pub errors: u64,
}

impl NetworkCounters {
    /// Writes them to the telemetry pages, word by word.
    pub fn publish(&self, part: &NetworkPart) {
        let Self { frames_in, frames_out, connections, requests, datagrams, errors } = *self;
        part.frames_in.store(frames_in, Relaxed);
        part.frames_out.store(frames_out, Relaxed);
        part.connections.store(connections, Relaxed);
        part.requests.store(requests, Relaxed);
        part.datagrams.store(datagrams, Relaxed);
        part.errors.store(errors, Relaxed);
    }
}
