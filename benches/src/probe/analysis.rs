//! From records to a report. Pure functions: no clock and no socket.

use std::ops::Range;

use hdrhistogram::Histogram;

use super::record::{Record, Recording};
use crate::results::{Brownout, ClientReport, Percentiles, ResponseTimes, UdpReport};

/// How near to its level before the response time must come to be back: 5 %.
const BACK_PERCENT: u64 = 105;
/// Over how many requests in a row that is judged: one alone may be lucky.
const BACK_REQUESTS: usize = 50;

/// When the migration was, by CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationWindow {
    /// The command to migrate.
    pub begin_ns: u64,
    /// The guest ran at the destination.
    pub switchover_end_ns: u64,
    /// The source was free of duty.
    pub end_ns: u64,
}

impl MigrationWindow {
    fn all(&self) -> Range<u64> {
        self.begin_ns..self.end_ns
    }

    fn holds(&self, ns: u64) -> bool {
        self.all().contains(&ns)
    }
}

/// Whether a stretch of time lies in `part` of the run, or reaches into it.
fn meets(part: &Range<u64>, from_ns: u64, to_ns: u64) -> bool {
    from_ns < part.end && to_ns > part.start
}

/// What the client saw of the migration; `paused_ns` is when the guest was told to pause, if it moved.
pub fn report(recording: &Recording, window: &MigrationWindow, paused_ns: Option<u64>) -> ClientReport {
    let requests = &recording.requests;
    let all = window.all();
    let udp = (!recording.datagrams.is_empty()).then(|| UdpReport {
        sent: recording.datagrams.len() as u64,
        lost: lost(&recording.datagrams),
        duplicated: recording.duplicated,
        reordered: recording.reordered,
        longest_gap_us: longest_gap(&recording.datagrams, &all, recording.end_ns),
    });
    let response_us = response_times(requests, window);
    ClientReport {
        downtime_client_us: longest_gap(requests, &all, recording.end_ns),
        switchover_client_us: paused_ns.and_then(|paused_ns| {
            longest_gap(requests, &(paused_ns..window.switchover_end_ns), recording.end_ns)
        }),
        longest_response_us: longest_response(requests, window),
        requests_sent: requests.len() as u64,
        requests_lost: lost(requests),
        connections_reset: recording.connections_reset,
        responses_malformed: recording.responses_malformed,
        retransmissions: recording.retransmissions,
        response_us,
        brownout: brownout(requests, window, &response_us),
        recovery_us: recovery(requests, window),
        udp,
        stream_bytes_checked: recording.stream_bytes_checked,
        stream_errors: recording.stream_errors,
        probe_stalls_us: percentiles_of(&recording.stalls),
    }
}

fn lost(records: &[Record]) -> u64 {
    records.iter().filter(|record| record.is_lost()).count() as u64
}

/// The longest time between two answers in a row that lies in `part` of the run, or reaches into it.
fn longest_gap(records: &[Record], part: &Range<u64>, end_ns: u64) -> Option<u64> {
    let mut answers: Vec<u64> = records.iter().filter_map(Record::answered_ns).collect();
    answers.sort_unstable();
    let last = *answers.last()?;
    // If somebody asked after the last answer, and got none, the silence goes on.
    if records.iter().any(|record| record.is_lost() && record.scheduled_ns > last) {
        answers.push(end_ns.max(last));
    }
    let gaps = answers.windows(2).filter(|pair| meets(part, pair[0], pair[1]));
    gaps.map(|pair| (pair[1] - pair[0]) / 1_000).max()
}

/// The longest response time of all requests that waited during the migration.
fn longest_response(requests: &[Record], window: &MigrationWindow) -> Option<u64> {
    let waited = requests.iter().filter(|request| {
        request.answered_ns().is_some_and(|answered| meets(&window.all(), request.scheduled_ns, answered))
    });
    waited.filter_map(Record::response_us).max().map(u64::from)
}

fn response_times(requests: &[Record], window: &MigrationWindow) -> ResponseTimes {
    let of = |is_in: &dyn Fn(u64) -> bool| {
        percentiles(
            requests.iter().filter(|request| is_in(request.scheduled_ns)).filter_map(Record::response_us),
        )
    };
    ResponseTimes {
        before: of(&|ns| ns < window.begin_ns),
        during: of(&|ns| window.holds(ns)),
        after: of(&|ns| ns >= window.end_ns),
    }
}

/// In three digits, the longest exactly; nothing of none.
fn percentiles(times_us: impl Iterator<Item = u32>) -> Option<Percentiles> {
    let mut histogram = Histogram::<u32>::new(3).expect("three digits are a valid precision");
    let mut max = 0;
    for time in times_us.map(u64::from) {
        histogram.record(time).expect("a histogram without bounds grows as it must");
        max = max.max(time);
    }
    // Of the longest every digit is known, and no percentile is above it.
    let Percentiles { p50, p99, p999, .. } = percentiles_of(&histogram)?;
    Some(Percentiles { p50: p50.min(max), p99: p99.min(max), p999: p999.min(max), max })
}

fn percentiles_of(histogram: &Histogram<u32>) -> Option<Percentiles> {
    let at = |quantile| histogram.value_at_quantile(quantile);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    (!histogram.is_empty()).then(|| Percentiles { p50, p99, p999, max: histogram.max() })
}

/// Responses a second, and their 99th percentile, during the migration beside before it.
fn brownout(requests: &[Record], window: &MigrationWindow, times: &ResponseTimes) -> Option<Brownout> {
    let first = requests.first()?.scheduled_ns;
    let rate = |from_ns: u64, to_ns: u64| {
        let answers = requests.iter().filter_map(Record::answered_ns);
        let count = answers.filter(|answered| (from_ns..to_ns).contains(answered)).count();
        let seconds = to_ns.checked_sub(from_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
        Some(count as f64 / seconds)
    };
    let before = rate(first, window.begin_ns).filter(|rate| *rate > 0.0)?;
    let during = rate(window.begin_ns, window.end_ns)?;
    let (before_p99, during_p99) = (times.before?.p99.max(1), times.during?.p99);
    let percent = |part: f64, whole: f64| (part / whole * 1_000.0).round() / 10.0;
    Some(Brownout {
        throughput_percent: percent(during, before),
        p99_percent: percent(during_p99 as f64, before_p99 as f64),
    })
}

/// From the end of the switchover to the first of [`BACK_REQUESTS`] in a row whose median is back.
fn recovery(requests: &[Record], window: &MigrationWindow) -> Option<u64> {
    let before: Vec<u32> = requests
        .iter()
        .filter(|request| request.scheduled_ns < window.begin_ns)
        .filter_map(Record::response_us)
        .collect();
    let limit = u64::from(median(before)?) * BACK_PERCENT;
    let first = requests.partition_point(|request| request.scheduled_ns < window.switchover_end_ns);
    let back = requests[first..].windows(BACK_REQUESTS).find(|some| {
        // One without an answer took longer than any.
        let times = some.iter().map(|request| request.response_us().unwrap_or(u32::MAX)).collect();
        median(times).is_some_and(|median| u64::from(median) * 100 <= limit)
    });
    back.map(|some| (some[0].scheduled_ns - window.switchover_end_ns) / 1_000)
}

/// Of an even number the lower middle.
fn median(mut times: Vec<u32>) -> Option<u32> {
    let middle = times.len().checked_sub(1)? / 2;
    Some(*times.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    /// Commanded after 2 s, running at the destination after 3 s, done after 4 s.
    const WINDOW: MigrationWindow =
        MigrationWindow { begin_ns: 2_000 * MS, switchover_end_ns: 3_000 * MS, end_ns: 4_000 * MS };

    /// Six seconds of requests, a millisecond apart; `response` says how long each takes in microseconds.
    fn requests(response: impl Fn(u64) -> Option<u64>) -> Vec<Record> {
        let one = |i: u64| {
            let mut record = Record::sent(i * MS, i * MS);
            if let Some(us) = response(i) {
                record.answer(i * MS + us * 1_000);
            }
            record
        };
        (0..6_000).map(one).collect()
    }

    fn report(recording: &Recording, window: &MigrationWindow) -> ClientReport {
        super::report(recording, window, Some(2_960 * MS))
    }

    fn recording(requests: Vec<Record>) -> Recording {
        Recording {
            requests,
            datagrams: Vec::new(),
            end_ns: 7_000 * MS,
            duplicated: 0,
            reordered: 0,
            connections_reset: 0,
            responses_malformed: 0,
            retransmissions: 0,
            stream_bytes_checked: None,
            stream_errors: None,
            stalls: Histogram::new(3).unwrap(),
        }
    }

    /// The guest stands still from 2 970.5 ms until 3 000 ms.
    fn stall(i: u64) -> Option<u64> {
        if (2_971..3_000).contains(&i) { Some(200 + (3_000 - i) * 1_000) } else { Some(200) }
    }

    #[test]
    fn a_quiet_service_has_gaps_of_the_period_and_nothing_else() {
        let report = report(&recording(requests(|_| Some(200))), &WINDOW);
        assert_eq!((report.downtime_client_us, report.longest_response_us), (Some(1_000), Some(200)));
        assert_eq!((report.requests_sent, report.requests_lost), (6_000, 0));
        let level = Percentiles { p50: 200, p99: 200, p999: 200, max: 200 };
        let times = ResponseTimes { before: Some(level), during: Some(level), after: Some(level) };
        assert_eq!(report.response_us, times);
        assert_eq!(report.brownout, Some(Brownout { throughput_percent: 100.0, p99_percent: 100.0 }));
        assert_eq!(report.recovery_us, Some(0));
        assert_eq!((report.udp, report.probe_stalls_us), (None, None));
    }

    #[test]
    fn a_stall_is_seen_by_every_request_that_was_scheduled_in_it() {
        let report = report(&recording(requests(stall)), &WINDOW);
        // The last answer before came at 2 970.2, the first after at 3 000.2.
        assert_eq!((report.downtime_client_us, report.switchover_client_us), (Some(30_000), Some(30_000)));
        assert_eq!(report.longest_response_us, Some(29_200));
        let during = report.response_us.during.unwrap();
        // 29 of 2 000 requests: more than a hundredth, so the 99th percentile sees it.
        assert_eq!((during.p50, during.max), (200, 29_200));
        assert!(during.p99 >= 9_000 && during.p999 >= 27_000, "{during:?}");
        assert_eq!(report.response_us.after.unwrap().max, 200);
        let brownout = report.brownout.unwrap();
        assert_eq!(brownout.throughput_percent, 100.0);
        assert!(brownout.p99_percent > 1_000.0);
    }

    #[test]
    fn a_gap_before_the_switchover_is_not_the_switchovers() {
        let busy = |i| if (2_100..2_110).contains(&i) { Some((2_110 - i) * 1_000) } else { Some(200) };
        let report = report(&recording(requests(busy)), &WINDOW);
        assert_eq!((report.downtime_client_us, report.switchover_client_us), (Some(10_800), Some(1_000)));
    }

    #[test]
    fn what_happens_outside_the_migration_is_not_its_downtime() {
        let early = |i| if i == 500 { Some(80_000) } else { Some(200) };
        assert_eq!(report(&recording(requests(early)), &WINDOW).longest_response_us, Some(200));
        let late = |i| if (5_000..5_090).contains(&i) { Some((5_090 - i) * 1_000 + 200) } else { Some(200) };
        assert_eq!(report(&recording(requests(late)), &WINDOW).downtime_client_us, Some(1_000));
        // One that began before and ended in it counts.
        let across = |i| if (1_990..2_010).contains(&i) { Some((2_010 - i) * 1_000) } else { Some(200) };
        assert_eq!(report(&recording(requests(across)), &WINDOW).downtime_client_us, Some(20_800));
    }

    #[test]
    fn lost_requests_are_counted_and_lengthen_the_gap() {
        let some = |i| (!(2_500..2_510).contains(&i)).then_some(200);
        let report_of = |requests| report(&recording(requests), &WINDOW);
        let report = report_of(requests(some));
        assert_eq!((report.requests_lost, report.downtime_client_us), (10, Some(11_000)));
        assert_eq!(report.brownout.unwrap().throughput_percent, 99.5);

        // Answers cease for good: the silence lasts until nobody listens any more.
        let report = report_of(requests(|i| (i < 3_000).then_some(200)));
        assert_eq!(report.requests_lost, 3_000);
        assert_eq!(report.downtime_client_us, Some(4_000_800));
        assert_eq!((report.recovery_us, report.response_us.after), (None, None));
    }

    #[test]
    fn recovery_is_when_the_median_is_back_and_not_one_lucky_request() {
        // Pages are pushed for 400 ms: two of three requests wait for one. Then it is 3 % slower than before.
        let slow = |i: u64| match i {
            3_000..3_400 if i.is_multiple_of(3) => Some(200),
            3_000..3_400 => Some(900),
            3_400.. => Some(206),
            _ => Some(200),
        };
        let back = recovery(&requests(slow), &WINDOW).unwrap();
        // Half of the first 50 requests are quick at the latest 25 requests into the quiet part.
        assert!((350_000..=400_000).contains(&back), "{back}");
        // 6 % slower for good is not back.
        let slower = |i| if i >= 3_000 { Some(212) } else { Some(200) };
        assert_eq!(recovery(&requests(slower), &WINDOW), None);
    }

    #[test]
    fn nothing_can_be_said_of_nothing() {
        let report = report(&recording(Vec::new()), &WINDOW);
        assert_eq!((report.downtime_client_us, report.recovery_us, report.brownout), (None, None, None));
        assert_eq!(report.response_us, ResponseTimes::default());
        let report = super::report(&recording(requests(|_| None)), &WINDOW, None);
        assert_eq!((report.requests_lost, report.downtime_client_us), (6_000, None));
    }

    #[test]
    fn datagrams_have_their_own_gap() {
        let mut recording = recording(requests(|_| Some(200)));
        recording.datagrams = requests(|i| (!(2_700..2_705).contains(&i)).then_some(100));
        (recording.duplicated, recording.reordered) = (2, 1);
        let udp = report(&recording, &WINDOW).udp.unwrap();
        let expected =
            UdpReport { sent: 6_000, lost: 5, duplicated: 2, reordered: 1, longest_gap_us: Some(6_000) };
        assert_eq!(udp, expected);
    }
}
