//! HTTP/1.1 (RFC 9112), as much as a guest needs: two resources, keep-alive, pipelining, and an answer to everything.

mod connection;
mod request;
mod response;

pub(crate) use connection::Connection;
pub use request::{MAX_HEAD_BYTES, MAX_TOUCH_PAGES, Parsed, Request, Route, parse};
pub use response::{Code, MAX_RESPONSE_BYTES, Response};
