//! One request over a control socket: HTTP/1.1 without keep-alive, blocking, as little as will do.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::interrupt;

/// More than any answer has.
const MAX_ANSWER: usize = 16 << 20;

/// Sends a request and reads the answer to its end.
///
/// # Errors
/// If nobody answers in time, or the answer is an error; then with its words. Or if the user interrupts.
pub fn request(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value> {
    let context = || format!("{method} {target}");
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: ferry\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = UnixStream::connect(socket).with_context(context)?;
    stream.set_read_timeout(Some(Duration::from_millis(100))).with_context(context)?;
    stream.write_all(head.as_bytes()).with_context(context)?;
    stream.write_all(body.as_bytes()).with_context(context)?;
    let answer = read_to_end(&mut stream, patience).with_context(context)?;
    parse(&answer).with_context(context)
}

fn read_to_end(stream: &mut UnixStream, patience: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        interrupt::check()?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if is_wait(&error) && Instant::now() < deadline => {}
            Err(error) if is_wait(&error) => bail!("no answer within {} s", patience.as_secs()),
            Err(error) => return Err(error.into()),
        }
        if answer.len() > MAX_ANSWER {
            bail!("the answer is longer than {MAX_ANSWER} bytes");
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn parse(answer: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(answer).context("the answer is no text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer was cut off")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    let status = status.context("the answer is not HTTP")?;
    let body = match body.trim() {
        "" => Value::Null,
        body => serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
    };
    match status {
        200..300 => Ok(body),
        _ => bail!("{}", complaint(&body).unwrap_or_else(|| format!("status {status}: {body}"))),
    }
}

/// The sentence in an error's body.
fn complaint(body: &Value) -> Option<String> {
    match body {
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => {
            let text = ["error", "message", "detail"].iter().find_map(|key| fields.get(*key));
            text.and_then(complaint)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_errors_keep_their_words() {
        let good = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 12}";
        assert_eq!(parse(good).unwrap()["a"], 12);
        let bad = b"HTTP/1.1 409 Conflict\r\n\r\n{\"error\": \"it is already migrating\"}";
        assert_eq!(format!("{:#}", parse(bad).unwrap_err()), "it is already migrating");
        assert!(parse(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ncont").is_err());
        assert!(parse(&[0xff; 9]).is_err());
    }
}
