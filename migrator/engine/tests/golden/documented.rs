//! The limits that `docs/protocol.md` names are those of the code.

use engine::{pages, protocol};

/// Every limit on what a peer may say, in the order of the table.
fn limits() -> Vec<(&'static str, u64)> {
    vec![
        ("VERSION", protocol::VERSION.into()),
        ("OLDEST_VERSION", protocol::OLDEST_VERSION.into()),
        ("GREETING_BYTES", protocol::GREETING_BYTES as u64),
        ("MAX_BULK_LINKS", protocol::MAX_BULK_LINKS.into()),
        ("MAX_MESSAGE_BYTES", protocol::MAX_MESSAGE_BYTES as u64),
        ("MAX_ANSWER_BYTES", protocol::MAX_ANSWER_BYTES as u64),
        ("MAX_REASON_CHARACTERS", protocol::MAX_REASON_CHARACTERS as u64),
        ("MAX_CONSOLE_BYTES", protocol::MAX_CONSOLE_BYTES as u64),
        ("MAX_PAGES_ALONG", protocol::MAX_PAGES_ALONG as u64),
        ("MAX_FAULT_BUCKETS", protocol::MAX_FAULT_BUCKETS as u64),
        ("PAGE_SIZE", pages::PAGE_SIZE as u64),
        ("HEADER_BYTES", protocol::HEADER_BYTES as u64),
        ("RECORD_BYTES", protocol::RECORD_BYTES as u64),
        ("DIGEST_BYTES", protocol::DIGEST_BYTES as u64),
        ("MAX_FRAME_PAGES", protocol::MAX_FRAME_PAGES),
        ("MAX_FRAME_RUNS", protocol::MAX_FRAME_RUNS as u64),
        ("MAX_PAYLOAD_BYTES", protocol::MAX_PAYLOAD_BYTES),
        ("NETWORK_HEADER_BYTES", protocol::NETWORK_HEADER_BYTES as u64),
        ("MAX_NETWORK_FRAME_BYTES", protocol::MAX_NETWORK_FRAME_BYTES as u64),
    ]
}

#[test]
fn the_documented_limits_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let text = std::fs::read_to_string(path).expect("docs/protocol.md");
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let value = rest.split_once(" |")?.0.replace(' ', "").parse().ok()?;
        Some((name.to_owned(), value))
    };
    let documented: Vec<(String, u64)> = text.lines().filter_map(row).collect();
    let expected: Vec<(String, u64)> =
        limits().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(documented, expected);
}
