//! From bytes to what is asked: the head's syntax (by `httparse`), its limits, and its route.

use httparse::Status;

use super::response::Code;

/// Longest head of a request: request line, header fields and the empty line.
pub const MAX_HEAD_BYTES: usize = 2048;
/// Most pages one request may have touched.
pub const MAX_TOUCH_PAGES: u32 = 65_536;
const MAX_FIELDS: usize = 32;

/// What the bytes received so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a request.
    Incomplete,
    /// A request.
    Request(Request),
    /// Nothing that could be told from what follows it: answer, and close.
    Refused(Code),
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Length of its head; it has no body, or `keep_alive` is false.
    pub bytes: usize,
    /// What is asked for, or why that is refused.
    pub route: Result<Route, Code>,
    /// Whether the answer goes without its body (HEAD).
    pub head_only: bool,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/`: how the guest is.
    Status,
    /// `/memory?pages=N`: to touch that many pages, 1 to [`MAX_TOUCH_PAGES`].
    Memory {
        /// How many.
        pages: u32,
    },
}

/// Looks for a request at the start of `bytes`, of which no more than [`MAX_HEAD_BYTES`] are looked at.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD_BYTES)];
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(Status::Complete(length)) => match Fields::read(&head) {
            Ok(fields) => Parsed::Request(request(&head, length, &fields)),
            Err(code) => Parsed::Refused(code),
        },
        Ok(Status::Partial) if bytes.len() == MAX_HEAD_BYTES => Parsed::Refused(Code::HeadTooLarge),
        Ok(Status::Partial) => Parsed::Incomplete,
        Err(httparse::Error::TooManyHeaders) => Parsed::Refused(Code::HeadTooLarge),
        Err(httparse::Error::Version) => Parsed::Refused(Code::VersionNotSupported),
        Err(_) => Parsed::Refused(Code::BadRequest),
    }
}

/// The header fields that say where a request ends and what comes after it.
struct Fields {
    body: bool,
    keep_alive: bool,
}

impl Fields {
    fn read(head: &httparse::Request<'_, '_>) -> Result<Self, Code> {
        let is_1_1 = head.version == Some(1);
        let (mut hosts, mut length, mut encoded) = (0, None, false);
        let (mut keep_alive, mut close) = (is_1_1, false);
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("host") {
                hosts += 1;
            } else if field.name.eq_ignore_ascii_case("content-length") {
                let value = content_length(field.value).ok_or(Code::BadRequest)?;
                // Two lengths are an attempt to have the next request read as a body, or the other way round.
                if length.is_some_and(|length| length != value) {
                    return Err(Code::BadRequest);
                }
                length = Some(value);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                encoded = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                for option in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    close |= option.eq_ignore_ascii_case(b"close");
                    keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        if hosts > 1 || (is_1_1 && hosts == 0) {
            return Err(Code::BadRequest);
        }
        let body = encoded || length.is_some_and(|length| length > 0);
        Ok(Self { body, keep_alive: keep_alive && !close })
    }
}

fn content_length(value: &[u8]) -> Option<u64> {
    let digits = core::str::from_utf8(value).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn request(head: &httparse::Request<'_, '_>, bytes: usize, fields: &Fields) -> Request {
    let method = head.method.unwrap_or_default();
    let route = match method {
        "GET" | "HEAD" if fields.body => Err(Code::ContentTooLarge),
        "GET" | "HEAD" => route(head.path.unwrap_or_default()),
        _ => Err(Code::MethodNotAllowed),
    };
    // A body is not read: what follows could not be told from a request.
    Request { bytes, route, head_only: method == "HEAD", keep_alive: fields.keep_alive && !fields.body }
}

/// A request target, as path or (through a proxy) with its host.
fn route(target: &str) -> Result<Route, Code> {
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/" => Ok(Route::Status),
        "/memory" => {
            let mut pages = query.split('&').filter_map(|pair| pair.strip_prefix("pages="));
            match (pages.next().and_then(count), pages.next()) {
                (Some(pages), None) => Ok(Route::Memory { pages }),
                _ => Err(Code::BadPages),
            }
        }
        _ => Err(Code::NotFound),
    }
}

fn count(digits: &str) -> Option<u32> {
    let pages = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
    pages.filter(|pages| (1..=MAX_TOUCH_PAGES).contains(pages))
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
