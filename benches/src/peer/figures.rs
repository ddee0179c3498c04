//! What QEMU says of a migration, in the fields of a run.

use serde_json::Value;

use crate::results::{Moved, PageFaults, PeerFigures, Run};

/// Takes over the answer to `query-migrate` on the source, asked after the end: before it, times are not final.
pub fn record(run: &mut Run, answer: &Value) {
    let ram = &answer["ram"];
    let count = |value: &Value| value.as_u64();
    let millis = |value: &Value| value.as_u64().map(|millis| millis.saturating_mul(1_000));
    let zero_pages = count(&ram["duplicate"]);
    run.moved = Moved {
        downtime_engine_us: millis(&answer["downtime"]),
        setup_us: millis(&answer["setup-time"]),
        bytes_sent: count(&ram["transferred"]),
        pages_sent: count(&ram["normal"]).zip(zero_pages).map(|(normal, zero)| normal + zero),
        zero_pages,
        // It does not say what its downtime and its rounds consist of, nor what became of frames.
        ..Moved::default()
    };
    // Nor of faults: what it counts are the pages that were asked for.
    run.page_faults = PageFaults::default();
    run.peer = Some(PeerFigures {
        dirty_sync_count: count(&ram["dirty-sync-count"]),
        total_us: millis(&answer["total-time"]),
        postcopy_requests: count(&ram["postcopy-requests"]),
        megabits_per_second: ram["mbps"].as_f64(),
    });
}

#[cfg(test)]
mod tests {
    use engine::strategy::Strategy;

    use super::*;
    use crate::plan::{Fill, Idle, Workload};

    /// QEMU 7.2's answer after a post-copy.
    const ANSWER: &str = r#"{"expected-downtime": 300, "status": "completed", "setup-time": 3, "downtime": 7,
        "total-time": 1177, "ram": {"total": 1074135040, "postcopy-requests": 412, "dirty-sync-count": 2,
        "multifd-bytes": 0, "pages-per-second": 251000, "downtime-bytes": 0, "page-size": 4096, "remaining": 0,
        "mbps": 7312.5, "transferred": 1076000000, "duplicate": 12, "precopy-bytes": 88, "normal": 262132}}"#;

    fn recorded(answer: &str) -> Run {
        let workload = Workload {
            memory_bytes: 1 << 30,
            dirty_rate_pages_per_second: 0,
            working_set_bytes: 64 << 20,
            fill: Fill::Random,
            vcpus: 1,
            idle: Idle::Spin,
            link: None,
        };
        let mut run = Run::planned(Strategy::PostCopy, workload, 1);
        record(&mut run, &serde_json::from_str(answer).unwrap());
        run
    }

    #[test]
    fn qemus_words_become_fields() {
        let run = recorded(ANSWER);
        assert_eq!((run.moved.downtime_engine_us, run.moved.setup_us), (Some(7_000), Some(3_000)));
        let Moved { bytes_sent, pages_sent, zero_pages, .. } = run.moved;
        assert_eq!((bytes_sent, pages_sent, zero_pages), (Some(1_076_000_000), Some(262_144), Some(12)));
        let peer = run.peer.unwrap();
        assert_eq!(peer.postcopy_requests, Some(412));
        assert_eq!((peer.dirty_sync_count, peer.total_us), (Some(2), Some(1_177_000)));
    }

    #[test]
    fn what_is_not_said_is_null_and_not_zero() {
        let run = recorded(r#"{"status": "completed"}"#);
        assert_eq!(run.moved, Moved::default());
        assert_eq!(run.peer.as_ref().unwrap().postcopy_requests, None);
        let json = serde_json::to_value(recorded(ANSWER)).unwrap();
        for untold in ["downtime_parts_us", "rounds", "push", "network_frames_carried", "downtime_limit_us"] {
            assert_eq!(json[untold], serde_json::Value::Null, "{untold}");
        }
        assert!(json["page_faults"].as_object().unwrap().values().all(serde_json::Value::is_null), "{json}");
    }
}
