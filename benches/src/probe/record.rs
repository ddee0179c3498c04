//! What the probe saw, request by request.

use hdrhistogram::Histogram;

/// One request, or one datagram: 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was to be sent, by CLOCK_MONOTONIC.
    pub scheduled_ns: u64,
    response_us: u32,
    /// How much later it was given to the kernel, because the probe did not run: its own stall.
    pub late_us: u32,
}

/// No answer.
const LOST: u32 = u32::MAX;

impl Record {
    /// Sent, and not answered so far.
    pub fn sent(scheduled_ns: u64, now_ns: u64) -> Record {
        Record { scheduled_ns, response_us: LOST, late_us: micros(now_ns.saturating_sub(scheduled_ns)) }
    }

    /// Now it is.
    pub fn answer(&mut self, now_ns: u64) {
        self.response_us = micros(now_ns.saturating_sub(self.scheduled_ns));
    }

    /// From the scheduled send to the answer, in microseconds; nothing if none came.
    pub fn response_us(&self) -> Option<u32> {
        (self.response_us != LOST).then_some(self.response_us)
    }

    /// When the answer came, by CLOCK_MONOTONIC, to the microsecond.
    pub fn answered_ns(&self) -> Option<u64> {
        self.response_us().map(|response| self.scheduled_ns + u64::from(response) * 1_000)
    }

    /// It was never answered.
    pub fn is_lost(&self) -> bool {
        self.response_us == LOST
    }
}

/// Never [`LOST`]: what takes longer than an hour is an hour.
fn micros(ns: u64) -> u32 {
    (ns / 1_000).min(3_600_000_000) as u32
}

/// Everything that the probe saw.
#[derive(Clone, Debug)]
pub struct Recording {
    /// HTTP requests, by their schedule.
    pub requests: Vec<Record>,
    /// Datagrams, by their schedule.
    pub datagrams: Vec<Record>,
    /// When the last answer was waited for, by CLOCK_MONOTONIC.
    pub end_ns: u64,
    /// Datagrams that came back more than once.
    pub duplicated: u64,
    /// Datagrams that came back after one that was sent later.
    pub reordered: u64,
    /// Connections that the guest, or the network, broke.
    pub connections_reset: u64,
    /// Answers that were no HTTP, or not the answer that was asked for.
    pub responses_malformed: u64,
    /// Segments that the client's kernel sent more than once, over all connections, since they were established.
    pub retransmissions: u64,
    /// Bytes of the stream that came back and were looked at; nothing if there was no stream.
    pub stream_bytes_checked: Option<u64>,
    /// Those of them that were not what had been sent.
    pub stream_errors: Option<u64>,
    /// How late the probe itself was, in microseconds, whenever it had something to send.
    pub stalls: Histogram<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_knows_when_it_was_answered_and_whether() {
        let mut record = Record::sent(5_000_000, 5_040_000);
        assert!(record.is_lost() && record.late_us == 40 && record.answered_ns().is_none());
        record.answer(5_250_900);
        assert_eq!((record.response_us(), record.answered_ns()), (Some(250), Some(5_250_000)));
        record.answer(u64::MAX);
        assert!(!record.is_lost());
    }
}
