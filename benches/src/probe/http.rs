//! Responses, told apart in a stream of bytes. No sockets, and nothing is kept of a body.

/// The longest head that is looked at.
const MOST_HEAD: usize = 8 << 10;
/// The longest body: an answer that claims more is none.
const MOST_BODY: u64 = 16 << 20;
const BUFFER: usize = 64 << 10;

/// What came is no answer to `GET /`: not HTTP/1.1, not status 200, or without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads answers out of what a connection yields.
///
/// ```text
///   Head ──(an empty line)──► Body ──(its last byte)──► Head
/// ```
#[derive(Debug)]
pub struct Responses {
    buffer: Box<[u8]>,
    /// What is still to be looked at.
    begin: usize,
    end: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Body { left: u64 },
}

impl Responses {
    /// From the beginning of a connection.
    pub fn new() -> Responses {
        Responses { buffer: vec![0; BUFFER].into_boxed_slice(), begin: 0, end: 0, place: Place::Head }
    }

    /// From the beginning of another connection.
    pub fn restart(&mut self) {
        (self.begin, self.end, self.place) = (0, 0, Place::Head);
    }

    /// Where bytes go that come next; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        // A head that is not whole is shorter than the limit, and of bodies nothing is kept.
        &mut self.buffer[self.end..]
    }

    /// So many have come.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// Whether another response is complete.
    ///
    /// # Errors
    /// If it is none; the connection is of no more use then.
    pub fn next(&mut self) -> Result<bool, Malformed> {
        if self.place == Place::Head {
            let bytes = &self.buffer[self.begin..self.end];
            let Some(length) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if bytes.len() > MOST_HEAD { Err(Malformed) } else { Ok(false) };
            };
            let left = body_length(&bytes[..length]).ok_or(Malformed)?;
            self.begin += length + 4;
            self.place = Place::Body { left };
        }
        if let Place::Body { left } = self.place {
            let here = left.min((self.end - self.begin) as u64);
            self.begin += here as usize;
            if here < left {
                self.place = Place::Body { left: left - here };
                return Ok(false);
            }
        }
        self.place = Place::Head;
        Ok(true)
    }
}

/// How long the body after a head is; nothing if the head is not what was asked for.
fn body_length(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    if status != "200" && !status.starts_with("200 ") {
        return None;
    }
    let lengths = lines.filter_map(|line| line.split_once(':'));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next()?.1.trim().parse().ok()?;
    (length <= MOST_BODY).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes in pieces and counts answers.
    fn count(bytes: &[u8], piece: usize) -> Result<u32, Malformed> {
        let (mut responses, mut found) = (Responses::new(), 0);
        for piece in bytes.chunks(piece) {
            responses.space()[..piece.len()].copy_from_slice(piece);
            responses.filled(piece.len());
            while responses.next()? {
                found += 1;
            }
        }
        Ok(found)
    }

    #[test]
    fn responses_are_told_apart_however_they_are_cut() {
        let one = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        let empty = b"HTTP/1.1 200\r\nCONTENT-LENGTH:0\r\n\r\n";
        let all = [&one[..], empty, one, one, empty].concat();
        for piece in [1, 2, 3, 7, 64, 1_000] {
            assert_eq!(count(&all, piece), Ok(5), "in pieces of {piece}");
        }
        assert_eq!(count(&all[..all.len() - 1], 9), Ok(4));
    }

    #[test]
    fn a_body_longer_than_the_buffer_is_passed_over() {
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 3 * BUFFER).into_bytes();
        bytes.resize(bytes.len() + 3 * BUFFER, b'\n');
        bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(count(&bytes, 10_000), Ok(2));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [
            "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert_eq!(count(bad.as_bytes(), 5), Err(Malformed), "{bad:?}");
        }
        assert_eq!(count(&[b'x'; 2 * MOST_HEAD], 100), Err(Malformed));
        assert_eq!(count(&[0xff, 0xfe, b'\r', b'\n', b'\r', b'\n'], 6), Err(Malformed));
    }
}
