//! What is a request, what is not, and where it ends.

use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn route_of(text: &str) -> Result<Route, Code> {
    match parse(text.as_bytes()) {
        Parsed::Request(request) => request.route,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: pulse\r\n\r\n")
}

#[test]
fn targets_are_routed() {
    for (target, route) in [
        ("/", Ok(Route::Status)),
        ("/?x=1", Ok(Route::Status)),
        ("http://pulse/", Ok(Route::Status)),
        ("http://pulse", Ok(Route::Status)),
        ("http://pulse/memory?pages=7", Ok(Route::Memory { pages: 7 })),
        ("/memory?pages=1", Ok(Route::Memory { pages: 1 })),
        ("/memory?pages=65536", Ok(Route::Memory { pages: 65_536 })),
        ("/memory?x=y&pages=2&z", Ok(Route::Memory { pages: 2 })),
        ("/memory", Err(Code::BadPages)),
        ("/memory?", Err(Code::BadPages)),
        ("/memory?pages=", Err(Code::BadPages)),
        ("/memory?pages=0", Err(Code::BadPages)),
        ("/memory?pages=65537", Err(Code::BadPages)),
        ("/memory?pages=-1", Err(Code::BadPages)),
        ("/memory?pages=+1", Err(Code::BadPages)),
        ("/memory?pages=1e3", Err(Code::BadPages)),
        ("/memory?pages=99999999999999999999", Err(Code::BadPages)),
        ("/memory?pages=1&pages=2", Err(Code::BadPages)),
        ("/memory/", Err(Code::NotFound)),
        ("/favicon.ico", Err(Code::NotFound)),
        ("//", Err(Code::NotFound)),
        ("*", Err(Code::NotFound)),
        ("pulse:80", Err(Code::NotFound)),
    ] {
        assert_eq!(route_of(&get(target)), route, "{target}");
    }
}

#[test]
fn only_get_and_head_are_methods_here() {
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW"] {
        let text = format!("{method} / HTTP/1.1\r\nHost: pulse\r\n\r\n");
        assert_eq!(route_of(&text), Err(Code::MethodNotAllowed), "{method}");
    }
    let head = "HEAD / HTTP/1.1\r\nHost: pulse\r\n\r\n";
    let expected = Request { bytes: head.len(), route: Ok(Route::Status), head_only: true, keep_alive: true };
    assert_eq!(parse(head.as_bytes()), Parsed::Request(expected));
}

#[test]
fn a_connection_is_kept_as_http_has_it() {
    for (version, field, keeps) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Keep-Alive, CLOSE\r\n", false),
        ("1.1", "connection:close\r\n", false),
        ("1.1", "Connection: upgrade\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Content-Length: 0\r\n", true),
        // A body would have to be skipped: the connection ends instead.
        ("1.1", "Content-Length: 1\r\n", false),
        ("1.1", "Transfer-Encoding: chunked\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: pulse\r\n{field}\r\n");
        match parse(text.as_bytes()) {
            Parsed::Request(request) => assert_eq!(request.keep_alive, keeps, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn what_has_a_body_is_refused() {
    let text = "GET / HTTP/1.1\r\nHost: pulse\r\nContent-Length: 4\r\n\r\nGET ";
    assert_eq!(route_of(text), Err(Code::ContentTooLarge));
    let text = "POST / HTTP/1.1\r\nHost: pulse\r\nContent-Length: 4\r\n\r\nGET ";
    assert_eq!(route_of(text), Err(Code::MethodNotAllowed));
}

#[test]
fn what_is_no_request_is_refused() {
    for (text, code) in [
        ("GET / HTTP/1.1\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Code::BadRequest),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Code::BadRequest),
        ("GET /\r\n\r\n", Code::BadRequest),
        ("GET  /  HTTP/1.1\r\n\r\n", Code::BadRequest),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7f", Code::BadRequest),
        ("GET / HTTP/2.0\r\n", Code::VersionNotSupported),
        ("GET / HTTP/0.9\r\n", Code::VersionNotSupported),
    ] {
        assert_eq!(parse(text.as_bytes()), Parsed::Refused(code), "{text:?}");
    }
}

#[test]
fn a_head_has_limits() {
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
    let longest = MAX_HEAD_BYTES - with("X: \r\n").len();
    assert_eq!(route_of(&with(&format!("X: {}\r\n", "y".repeat(longest)))), Ok(Route::Status));
    let longer = with(&format!("X: {}\r\n", "y".repeat(longest + 1)));
    assert_eq!(parse(longer.as_bytes()), Parsed::Refused(Code::HeadTooLarge));
    assert_eq!(parse(&[b'A'; MAX_HEAD_BYTES - 1]), Parsed::Incomplete);
    assert_eq!(parse(&[b'A'; 10 * MAX_HEAD_BYTES]), Parsed::Refused(Code::HeadTooLarge));
    let crowded = with(&"X: y\r\n".repeat(MAX_FIELDS));
    assert_eq!(parse(crowded.as_bytes()), Parsed::Refused(Code::HeadTooLarge));
    assert_eq!(route_of(&with(&"X: y\r\n".repeat(MAX_FIELDS - 1))), Ok(Route::Status));
}

#[test]
fn a_request_cut_anywhere_is_incomplete() {
    let text =
        "GET /memory?pages=12 HTTP/1.1\r\nHost: pulse\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..end]), Parsed::Incomplete, "{end}");
    }
    // What follows is the next request's.
    let two = format!("{text}{text}");
    match parse(two.as_bytes()) {
        Parsed::Request(request) => assert_eq!(request.bytes, text.len()),
        other => panic!("{other:?}"),
    }
}

/// Pieces that requests are made of, and some that they are not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"/memory?pages=3".to_vec()),
        Just(b" HTTP/1.1\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"Content-Length: ".to_vec()),
        Just(b"Connection: close\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn any_bytes_have_one_meaning(pieces in proptest::collection::vec(piece(), 0..40)) {
        let bytes = pieces.concat();
        match parse(&bytes) {
            Parsed::Request(request) => {
                prop_assert!(request.bytes > 0 && request.bytes <= bytes.len().min(MAX_HEAD_BYTES));
                prop_assert!(bytes[..request.bytes].ends_with(b"\n"));
                // Nothing behind the request has a say in it, and nothing less is a request.
                prop_assert_eq!(parse(&bytes[..request.bytes]), Parsed::Request(request));
                prop_assert_eq!(parse(&bytes[..request.bytes - 1]), Parsed::Incomplete);
            }
            Parsed::Incomplete => prop_assert!(bytes.len() < MAX_HEAD_BYTES),
            Parsed::Refused(_) => {}
        }
    }
}
