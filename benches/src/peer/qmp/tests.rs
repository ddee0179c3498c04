//! A QEMU of the tests says its lines in pieces of any size.

use std::thread;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#;

/// Says `lines` in pieces of so many bytes, and closes its end.
fn says(lines: &str, piece: usize) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let lines = lines.as_bytes().to_vec();
    thread::spawn(move || {
        for piece in lines.chunks(piece) {
            theirs.write_all(piece).unwrap();
        }
        // What it is asked it reads, so that nobody is told of a broken pipe.
        let mut asked = Vec::new();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        theirs.read_to_end(&mut asked).ok();
    });
    ours
}

#[test]
fn lines_are_told_apart() {
    assert_eq!(parse(GREETING.as_bytes()).unwrap(), Message::Greeting { version: "10.0.2".to_owned() });
    assert_eq!(
        parse(br#"{"return": {"status": "running"}}"#).unwrap(),
        Message::Answer(Ok(json!({"status": "running"})))
    );
    assert_eq!(
        parse(br#"{"error": {"class": "GenericError", "desc": "Postcopy is not supported"}}"#).unwrap(),
        Message::Answer(Err("Postcopy is not supported".to_owned()))
    );
    let event = br#"{"timestamp": {"seconds": 2, "microseconds": 5}, "event": "MIGRATION", "data": {"status": "setup"}}"#;
    assert_eq!(
        parse(event).unwrap(),
        Message::Event(Event {
            name: "MIGRATION".to_owned(),
            data: json!({"status": "setup"}),
            at_us: 2_000_005
        })
    );
    for nonsense in ["", "[1]", "{}", "SSH-2.0", "{\"return\""] {
        assert!(matches!(parse(nonsense.as_bytes()), Err(QmpError::NotQmp { .. })), "{nonsense}");
    }
}

#[test]
fn answers_and_events_are_told_apart_however_they_are_cut() {
    let event = r#"{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "STOP"}"#;
    let lines = format!(
        "{GREETING}\r\n{{\"return\": {{}}}}\r\n{event}\r\n{{\"return\": 7}}\r\n{{\"error\": {{\"desc\": \"no\"}}}}\r\n"
    );
    for piece in [1, 7, 4096] {
        let mut qmp = Qmp::over(says(&lines, piece)).unwrap();
        assert_eq!(qmp.version(), "10.0.2");
        assert_eq!(qmp.execute("first", Value::Null).unwrap(), 7);
        let error = qmp.execute("second", json!({"a": 1})).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused \"second\": no");
        let event = qmp.take_event().unwrap();
        assert_eq!((event.name.as_str(), event.at_us), ("STOP", 1_000_000));
        assert_eq!(qmp.take_event(), None);
        assert!(matches!(qmp.execute("third", Value::Null), Err(QmpError::Gone)));
    }
}

#[test]
fn what_is_no_qmp_is_an_error_and_not_waited_for() {
    let error = Qmp::over(says("220 mail.example ESMTP\r\n", 64)).unwrap_err();
    assert!(matches!(error, QmpError::NotQmp { .. }), "{error}");
    let endless = "x".repeat(MAX_LINE + 2);
    assert!(matches!(Qmp::over(says(&endless, 1 << 16)), Err(QmpError::NotQmp { .. })));
    assert!(matches!(Qmp::over(says("", 1)), Err(QmpError::Gone)));
}
