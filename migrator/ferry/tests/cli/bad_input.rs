//! Bad input: a clear error, nothing lost.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    thread,
};

use crate::ferry::Host;

#[test]
fn wrong_arguments_are_usage_errors() {
    let host = Host::new();
    for arguments in [
        &["migrate", "a", "7800"][..],
        &["migrate", "a", "fd00::b:7800"],
        &["migrate", "a", "tcp://h:1", "--peer-timeout", "0s"],
        &["migrate", "a", "tcp://h:1", "--strategy", "magic"],
        &["migrate", "a", "tcp://h:1", "--max-bandwidth", "fast"],
        &["migrate", "a", "tcp://h:1", "--downtime-limit", "50"],
        &["run", "sim", "--memory", "lots"],
        &["balloon", "a", "much"],
        &["balloon"],
        &["run"],
        &["run", "pulse", "--kernel", "vmlinux"],
        &["run", "pulse", "--console", "parallel"],
        &["no-such-command"],
    ] {
        let done = host.ferry(arguments);
        assert_eq!(done.code, 2, "{done:?}");
    }
}

#[test]
fn wrong_guests_are_named() {
    let host = Host::new();
    host.ferry(&["run", "doom"]).fails(1, &["no built-in guest called \"doom\"", "pulse, linux or sim"]);
    host.ferry(&["run", "sim", "speed=9"]).fails(1, &["sim has no option \"speed\""]);
    host.ferry(&["run", "sim", "rate=fast"]).fails(1, &["rate=fast"]);
    host.ferry(&["run", "sim", "--vcpus", "2"]).fails(1, &["one vCPU"]);
    host.ferry(&["run", "sim", "--name", "../x"]).fails(1, &["is no name"]);
    host.ferry(&["run", "sim", "--console", "virtio"]).fails(1, &["has no devices", "--console"]);
    #[cfg(feature = "kvm")]
    host.ferry(&["run", "pulse", "--console", "virtio"]).fails(1, &["serial port", "leave --console out"]);
}

#[test]
fn more_memory_than_is_free_is_refused() {
    let host = Host::new();
    host.ferry(&["run", "sim", "--memory", "512TiB"]).fails(1, &["this host has", "--memory"]);
    // A detached guest's failure is told by who started it.
    host.ferry(&["run", "sim", "--memory", "512TiB", "-d"]).fails(1, &["this host has"]);
}

#[test]
fn a_port_in_use_is_named() {
    let host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    host.ferry(&["receive", &address]).fails(1, &["cannot listen at", &address, "in use"]);
}

#[test]
fn nobody_at_the_destination_leaves_the_guest_running() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", closed.local_addr().unwrap());
    drop(closed);
    let done = host.ferry(&["migrate", "a", &address]);
    done.fails(1, &["a was not moved and runs on here", "is `ferry receive` running there?", "refused"]);
    host.assert_alive("a");
}

#[test]
fn a_web_server_at_the_destination_leaves_the_guest_running() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", server.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        client.read_exact(&mut [0; 8]).ok();
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").ok();
    });
    let done = host.ferry(&["migrate", "a", &address]);
    done.fails(1, &["a was not moved and runs on here", "not as a Ferry"]);
    server.join().unwrap();
    host.assert_alive("a");
}

#[test]
fn a_stranger_does_not_keep_a_destination_from_its_vm() {
    let host = Host::new();
    let mut receive = host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--no-console"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    let mut stranger = std::net::TcpStream::connect(address.trim_start_matches("tcp://")).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    drop(stranger);
    host.run_sim("a", &[]);
    host.ferry(&["migrate", "a", &address, "--verify"]).succeeds();
    assert_eq!(receive.line(), "a runs here");
}

/// Issue 12, entry 15.
#[cfg(feature = "kvm")]
#[test]
fn entry_15_a_receiver_takes_simulated_vms_only_if_it_was_told_to() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let mut receive = host.start(&["receive", "tcp://127.0.0.1:0", "--no-console"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    host.ferry(&["migrate", "a", &address])
        .fails(1, &["a was not moved and runs on here", "`ferry receive --simulated` takes those, too"]);
    host.assert_alive("a");
}

/// Issue 12, entry 20.
#[test]
fn entry_20_what_leaves_no_time_or_no_round_is_refused_in_words() {
    let host = Host::new();
    let migrate = |option, value, words| {
        host.ferry(&["migrate", "a", "tcp://127.0.0.1:1", option, value]).fails(2, &[option, words]);
    };
    migrate("--timeout", "0s", "nothing can be done in no time");
    migrate("--downtime-limit", "0ms", "nothing can be done in no time");
    migrate("--max-rounds", "0", "ask for that strategy");
}

#[test]
fn one_failed_try_is_enough_where_that_was_asked_for() {
    let host = Host::new();
    let mut receive = host.start(&["receive", "--simulated", "tcp://127.0.0.1:0", "--no-console", "--once"]);
    let address = receive.line().strip_prefix("listening on ").unwrap().to_owned();
    host.run_sim("a", &[]);
    let slow = ["migrate", "a", &address, "--max-bandwidth", "8Mbit", "--timeout", "300ms"];
    host.ferry(&slow).fails(1, &["longer than --timeout allows"]);
    let end = receive.end();
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    host.assert_alive("a");
}

#[test]
fn the_api_answers_nonsense_in_sentences() {
    let host = Host::new();
    host.run_sim("a", &[]);
    let ask = |request: &str, body: &str| {
        let mut stream = UnixStream::connect(host.socket("a")).unwrap();
        let length = body.len();
        let request = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
        (head[9..12].to_owned(), body["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("GET /v2/vm", "").0, "404");
    assert_eq!(ask("POST /v1/vm", "").0, "405");
    assert_eq!(ask("POST /v1/migration", "{").0, "400");
    assert_eq!(ask("POST /v1/migration", "{}").0, "422");
    assert_eq!(ask("GET /v1/migration?wait=perhaps", "").0, "400");
    let (status, error) = ask("POST /v1/migration", r#"{"address":"http://nowhere","strategy":"pre-copy"}"#);
    assert_eq!(status, "400");
    assert!(error.contains("is no address"), "{error}");
    let (status, error) = ask("DELETE /v1/migration", "");
    assert_eq!(status, "409");
    assert!(error.contains("nothing to cancel"), "{error}");
    host.assert_alive("a");
}
