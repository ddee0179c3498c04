//! A client for the runs of the fixture, made up by a small generator: for tests of everything that shows one.

use hdrhistogram::Histogram;

use crate::{
    probe::{self, MigrationWindow, Record, Recording},
    results::{Phase, Phases, Request, Results, Run, Timelines},
};

/// Two seconds before the command and two after the end, a thousand requests a second.
const AROUND_US: i64 = 2_000_000;

/// What the fixture's runs might have looked like to a client.
pub(crate) fn with_client(mut results: Results) -> (Results, Timelines) {
    let timelines =
        results.runs.iter_mut().enumerate().filter_map(|(i, run)| Some((i + 1, add_client(run)?)));
    let timelines = timelines.collect();
    (results, timelines)
}

fn add_client(run: &mut Run) -> Option<Vec<Request>> {
    let (downtime, total) = (run.moved.downtime_engine_us? as i64, run.total_us? as i64);
    let push = run.moved.push.map_or(0, |push| push.duration_us as i64);
    let command = -(total - downtime - push).max(1);
    let window = MigrationWindow {
        begin_ns: ns(command),
        switchover_end_ns: ns(downtime),
        end_ns: ns(command + total),
    };
    run.phases = Phases::of(&window, run);
    let phases = run.phases?;
    let mut random = Random(u64::from(run.pass) * 97 + downtime as u64);
    let records: Vec<Record> = (command - AROUND_US..command + total + AROUND_US)
        .step_by(1_000)
        .map(|at| {
            let mut record = Record::sent(ns(at), ns(at));
            if let Some(us) = response(at, &phases, downtime, &mut random) {
                record.answer(ns(at + us));
            }
            record
        })
        .collect();
    let mut stalls = Histogram::new(3).expect("three digits are in range");
    stalls.record_n(40, 1_000).expect("it grows as it must");
    let recording = Recording {
        end_ns: ns(command + total + AROUND_US + 200_000),
        requests: records,
        datagrams: Vec::new(),
        duplicated: 0,
        reordered: 0,
        connections_reset: 0,
        responses_malformed: 0,
        retransmissions: 0,
        stream_bytes_checked: Some(1 << 20),
        stream_errors: Some(0),
        stalls,
    };
    run.client = Some(probe::report(&recording, &window, Phases::origin_ns(&window, run)));
    Some(Request::all_of(&recording, ns(0)))
}

/// How long the guest takes at that moment; now and then, and only in a long switchover, it never answers.
fn response(at: i64, phases: &Phases, downtime: i64, random: &mut Random) -> Option<i64> {
    let usual = 150 + random.below(60) + if random.below(60) == 0 { random.below(900) } else { 0 };
    match phases.at(at) {
        Phase::Switchover if downtime > 100_000 && random.below(12) == 0 => None,
        Phase::Switchover => Some(downtime - at + usual),
        Phase::Rounds => Some(usual + random.below(120)),
        Phase::Push => {
            Some(usual + if random.below(3) == 0 { random.below(1_800) } else { random.below(200) })
        }
        _ => Some(usual),
    }
}

/// On an axis that has room below zero.
fn ns(us: i64) -> u64 {
    (us + 60_000_000) as u64 * 1_000
}

/// Knuth's generator: enough for a picture.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % bound
    }
}
