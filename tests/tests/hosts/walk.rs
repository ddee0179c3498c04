//! What `hosts up` tells its user to type, typed as it stands there.

use testbed::{BedConfig, Host, walk::WALK};

use crate::{
    bed,
    by_hand::{PATIENCE, ok},
};

/// The answers that the client has got so far: the guest's clock that never goes back, nanoseconds.
fn answers(client: &Host) -> Vec<u64> {
    let lines = ok(client, "cat /tmp/answers");
    let clock = |line: &str| line.split(' ').nth(1)?.parse().ok();
    lines.lines().map(|line| clock(line).unwrap_or_else(|| panic!("{line:?} is no answer"))).collect()
}

/// Waits for some more answers, each of a later time, without an error since the first.
fn expect_answers_go_on(client: &Host, context: &str) {
    let before = answers(client).len();
    let begin = std::time::Instant::now();
    loop {
        let answers = answers(client);
        assert!(answers.is_sorted(), "{context}: the guest's clock went back: {answers:?}");
        if answers.len() >= before + 3 {
            return;
        }
        let errors = ok(client, "cat /tmp/errors");
        assert!(begin.elapsed() < PATIENCE, "{context}: no answer after {before}; {errors}");
        ok(client, "sleep 0.5");
    }
}

#[test]
fn what_hosts_up_prints_moves_a_guest_while_curl_asks_it() {
    let test = "walk::what_hosts_up_prints_moves_a_guest_while_curl_asks_it";
    let Some(bed) = bed(test, &BedConfig::with_linux_guest()) else { return };
    let (mut moves, mut errors) = (0, String::new());
    for (host, command) in WALK {
        let host = bed.hosts().iter().find(|other| other.name() == host).expect("a host of that name");
        if command.starts_with("while ") {
            ok(host, &format!("touch /tmp/answers; ({command}) >>/tmp/answers 2>/tmp/errors </dev/null &"));
            expect_answers_go_on(host, "after boot");
            // Until the guest was up there was nobody to answer.
            errors = ok(host, "cat /tmp/errors");
            continue;
        }
        let printed = ok(host, command);
        if command.starts_with("ferry migrate") {
            expect_answers_go_on(bed.client(), command);
            moves += 1;
        }
        if command == "ferry ps" {
            let row =
                printed.lines().find(|row| row.trim_start().starts_with("linux")).expect("it runs there");
            assert!(row.contains("running") && row.trim_end().ends_with("linux"), "{printed}");
        }
    }
    assert_eq!(moves, 3);
    assert_eq!(ok(bed.client(), "cat /tmp/errors"), errors, "curl failed after the guest was up");
}
