//! What the clients of an arm saw, reduced to medians over its runs.

use super::Row;
use crate::{
    results::{ClientReport, Percentiles, ResponseTimes},
    statistics::Spread,
};

/// The client of an arm, over its runs. Nothing is in it where no run had a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The longest time without an answer.
    pub downtime: Option<Spread>,
    /// The longest of those at the switchover.
    pub at_switchover: Option<Spread>,
    /// The longest time to an answer.
    pub longest_response: Option<Spread>,
    /// Response times, the median over runs of each percentile.
    pub response: ResponseTimes,
    /// Responses a second while the guest was moved, in thousandths of what they were before.
    pub throughput_permille: Option<Spread>,
    /// The 99th percentile of response times while the guest was moved, in thousandths of what it was before.
    pub p99_permille: Option<Spread>,
    /// From the end of the switchover until response time was back.
    pub recovery: Option<Spread>,
    /// Runs in which it did not come back before the client left.
    pub not_recovered: usize,
    /// Sums over all runs.
    pub sums: Sums,
    /// How late the probe itself was: the median over runs of its 99th percentile.
    pub probe_late_p99: Option<Spread>,
}

/// What must not happen once, counted over all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Runs with a client.
    pub runs: usize,
    /// Requests.
    pub sent: u64,
    /// Those that were never answered.
    pub lost: u64,
    /// Connections that broke.
    pub reset: u64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Answers that were wrong, and bytes of the stream.
    pub wrong: u64,
}

impl Client {
    /// Of the measured runs of an arm.
    pub fn of(row: &Row<'_>) -> Client {
        let reports: Vec<&ClientReport> = row.measured().filter_map(|run| run.client.as_ref()).collect();
        let spread = |of: &dyn Fn(&ClientReport) -> Option<u64>| {
            Spread::of(reports.iter().filter_map(|report| of(report)))
        };
        let sum = |of: &dyn Fn(&ClientReport) -> u64| reports.iter().map(|report| of(report)).sum();
        let permille = |percent: f64| (percent * 10.0).round().max(0.0) as u64;
        Client {
            downtime: spread(&|report| report.downtime_client_us),
            at_switchover: spread(&|report| report.switchover_client_us),
            longest_response: spread(&|report| report.longest_response_us),
            response: ResponseTimes {
                before: medians(reports.iter().filter_map(|report| report.response_us.before)),
                during: medians(reports.iter().filter_map(|report| report.response_us.during)),
                after: medians(reports.iter().filter_map(|report| report.response_us.after)),
            },
            throughput_permille: spread(&|report| Some(permille(report.brownout?.throughput_percent))),
            p99_permille: spread(&|report| Some(permille(report.brownout?.p99_percent))),
            recovery: spread(&|report| report.recovery_us),
            not_recovered: reports.iter().filter(|report| report.recovery_us.is_none()).count(),
            sums: Sums {
                runs: reports.len(),
                sent: sum(&|report| report.requests_sent),
                lost: sum(&|report| report.requests_lost),
                reset: sum(&|report| report.connections_reset),
                retransmitted: sum(&|report| report.retransmissions),
                wrong: sum(&|report| report.responses_malformed + report.stream_errors.unwrap_or(0)),
            },
            probe_late_p99: spread(&|report| Some(report.probe_stalls_us?.p99)),
        }
    }

    /// There was one.
    pub fn is_there(&self) -> bool {
        self.sums.runs > 0
    }
}

fn medians(of: impl Iterator<Item = Percentiles>) -> Option<Percentiles> {
    let all: Vec<Percentiles> = of.collect();
    let median = |of: &dyn Fn(&Percentiles) -> u64| Some(Spread::of(all.iter().map(of))?.median);
    Some(Percentiles {
        p50: median(&|times| times.p50)?,
        p99: median(&|times| times.p99)?,
        p999: median(&|times| times.p999)?,
        max: median(&|times| times.max)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Summary;

    #[test]
    fn without_a_client_there_is_nothing() {
        let results = crate::report::fixture();
        let client = Client::of(&Summary::of(&results).rows[0]);
        assert!(!client.is_there());
        assert_eq!(client, Client::default());
    }

    #[test]
    fn medians_are_taken_over_runs_and_losses_are_added_up() {
        let results = crate::report::fixture_with_client().0;
        let summary = Summary::of(&results);
        let row = summary.rows.iter().find(|row| row.strategy.name() == "pre-copy").unwrap();
        let client = Client::of(row);
        assert_eq!(client.sums.runs, 3);
        let lost: u64 = row.runs.iter().map(|run| run.client.as_ref().unwrap().requests_lost).sum();
        assert_eq!(client.sums.lost, lost);
        let (before, during) = (client.response.before.unwrap(), client.response.during.unwrap());
        assert!(before.p50 <= before.p99 && before.p99 <= before.max && before.p50 <= during.p50);
        assert!(client.throughput_permille.unwrap().median > 900);
    }
}
