//! Answers: a status line, three or four fields, and a line of JSON.

use core::fmt::{self, Write};

use super::request::MAX_TOUCH_PAGES;

/// Room for the longest answer: its numbers have at most 20 digits.
pub const MAX_RESPONSE_BYTES: usize = 1024;
const MAX_BODY_BYTES: usize = 768;

/// How a request was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 200.
    Ok,
    /// 400: not HTTP, or not to be told from what follows it.
    BadRequest,
    /// 400: `/memory` without a sound count of pages.
    BadPages,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 409: there is no working set to touch.
    NoWorkingSet,
    /// 413: there is nothing here that takes a body.
    ContentTooLarge,
    /// 431.
    HeadTooLarge,
    /// 505.
    VersionNotSupported,
}

impl Code {
    /// Code and reason of the status line.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest | Self::BadPages => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::NoWorkingSet => "409 Conflict",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }

    fn explain(self, text: &mut impl Write) -> fmt::Result {
        text.write_str(match self {
            Self::Ok => "",
            Self::BadRequest => "not a request of HTTP/1.1",
            Self::BadPages => return write!(text, "expected pages=1 to {MAX_TOUCH_PAGES}"),
            Self::NotFound => "there is / and /memory?pages=N",
            Self::MethodNotAllowed => "only GET and HEAD",
            Self::NoWorkingSet => "this guest has no working set",
            Self::ContentTooLarge => "no request here has a body",
            Self::HeadTooLarge => "the request's head is too long",
            Self::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1",
        })
    }
}

/// Text of bounded length.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// An answer, ready to be sent.
pub struct Response(Text<MAX_RESPONSE_BYTES>);

impl Response {
    /// 200 with the JSON that `body` writes; it must fit in 768 bytes.
    #[must_use]
    pub fn ok(body: impl fmt::Display, head_only: bool, keep_alive: bool) -> Self {
        Self::new(Code::Ok, |text| writeln!(text, "{body}"), head_only, keep_alive)
    }

    /// A refusal, with its reason.
    #[must_use]
    pub fn refusal(code: Code, head_only: bool, keep_alive: bool) -> Self {
        let body = |text: &mut Text<MAX_BODY_BYTES>| {
            text.write_str("{\"error\":\"")?;
            code.explain(text)?;
            text.write_str("\"}\n")
        };
        Self::new(code, body, head_only, keep_alive)
    }

    /// All of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn new(
        code: Code,
        body: impl FnOnce(&mut Text<MAX_BODY_BYTES>) -> fmt::Result,
        head_only: bool,
        keep_alive: bool,
    ) -> Self {
        // The body first: its length goes before it.
        let mut text = Text::new();
        body(&mut text).expect("every body has its numbers' digits counted");
        let mut answer = Text::new();
        Self::write(&mut answer, code, &text, head_only, keep_alive).expect("a body and its head fit");
        Self(answer)
    }

    fn write(
        answer: &mut Text<MAX_RESPONSE_BYTES>,
        code: Code,
        body: &Text<MAX_BODY_BYTES>,
        head_only: bool,
        keep_alive: bool,
    ) -> fmt::Result {
        write!(answer, "HTTP/1.1 {}\r\nContent-Type: application/json\r\n", code.status())?;
        write!(answer, "Content-Length: {}\r\n", body.length)?;
        if code == Code::MethodNotAllowed {
            answer.write_str("Allow: GET, HEAD\r\n")?;
        }
        answer.write_str(if keep_alive {
            "Connection: keep-alive\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        })?;
        let body = core::str::from_utf8(body.as_bytes()).map_err(|_| fmt::Error)?;
        answer.write_str(if head_only { "" } else { body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_fits_and_says_its_length() {
        for code in [
            Code::BadRequest,
            Code::BadPages,
            Code::NotFound,
            Code::MethodNotAllowed,
            Code::NoWorkingSet,
            Code::ContentTooLarge,
            Code::HeadTooLarge,
            Code::VersionNotSupported,
        ] {
            let answer = Response::refusal(code, false, false);
            let text = core::str::from_utf8(answer.as_bytes()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&std::format!("HTTP/1.1 {}\r\n", code.status())));
            assert!(head.contains(&std::format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(head.ends_with("Connection: close"), "{head}");
            assert!(body.starts_with("{\"error\":\"") && body.ends_with("\"}\n"), "{body}");
            let short = Response::refusal(code, true, true);
            assert!(short.as_bytes().ends_with(b"Connection: keep-alive\r\n\r\n"));
        }
    }
}
