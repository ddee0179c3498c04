//! Messages as bytes: length, CRC-32, then postcard.

use std::{io, marker::PhantomData, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{pages::RunBytes, transport::Wire};

/// The longest message: a state of many vCPUs, or the missing pages of a large guest as runs.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// How long a message may take from its first byte to its last, however little comes at a time: a guest may be paused
/// meanwhile.
const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// The slowest link that the longest messages are still received over.
const SLOWEST_BYTES_PER_SECOND: u32 = 1 << 20;

const PREFIX_BYTES: usize = 8;
/// Room that a link keeps: for the state of a few vCPUs.
const USUAL_MESSAGE_BYTES: usize = 256 << 10;

/// Why a message did not come or go.
#[derive(Debug, Error)]
pub enum MessageError {
    /// The link failed, was closed, or the wait was cut short.
    #[error("{operation} on the control link")]
    Link {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Longer than any message may be.
    #[error("the peer announces a message of {claimed} bytes; at most {most} are allowed")]
    TooLong {
        /// The length it claimed.
        claimed: u64,
        /// The longest such message.
        most: usize,
    },
    /// Damaged on the way.
    #[error("a message is damaged: its checksum does not match")]
    Checksum,
    /// Not a message of this protocol.
    #[error("a message cannot be decoded")]
    Decode(#[source] postcard::Error),
    /// Not encodable; a mistake of this side.
    #[error("a message cannot be encoded")]
    Encode(#[source] postcard::Error),
}

/// What a side says.
pub trait Words {
    /// The longest message that this side sends.
    const MAX_BYTES: usize;
}

/// A message with its prefix.
///
/// # Errors
/// [`MessageError::Encode`] and [`MessageError::TooLong`].
pub fn encode_message<M: Serialize>(message: &M) -> Result<Vec<u8>, MessageError> {
    encode_in(message, Vec::new())
}

/// As [`encode_message`], in a buffer whose room is used again.
fn encode_in<M: Serialize>(message: &M, mut buffer: Vec<u8>) -> Result<Vec<u8>, MessageError> {
    buffer.clear();
    buffer.resize(PREFIX_BYTES, 0);
    let mut bytes = postcard::to_extend(message, buffer).map_err(MessageError::Encode)?;
    let len = bytes.len() - PREFIX_BYTES;
    if len > MAX_MESSAGE_BYTES {
        return Err(MessageError::TooLong { claimed: len as u64, most: MAX_MESSAGE_BYTES });
    }
    let crc = crc32fast::hash(&bytes[PREFIX_BYTES..]);
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// How many bytes follow a prefix, and their checksum.
fn decode_prefix(prefix: [u8; PREFIX_BYTES], most: usize) -> Result<(usize, u32), MessageError> {
    let [a, b, c, d, crc @ ..] = prefix;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > most {
        return Err(MessageError::TooLong { claimed: len as u64, most });
    }
    Ok((len, u32::from_le_bytes(crc)))
}

/// The message that a prefix announced.
///
/// # Errors
/// [`MessageError::Checksum`] and [`MessageError::Decode`].
pub fn decode_message<M: DeserializeOwned>(crc: u32, body: &[u8]) -> Result<M, MessageError> {
    if crc32fast::hash(body) != crc {
        return Err(MessageError::Checksum);
    }
    postcard::from_bytes(body).map_err(MessageError::Decode)
}

/// How long a message of `len` bytes may take.
fn message_time(len: usize) -> Duration {
    MESSAGE_TIME + Duration::from_secs(1).mul_f64(len as f64 / f64::from(SLOWEST_BYTES_PER_SECOND))
}

/// A control link that sends `S` and receives `R`.
pub struct ControlLink<S, R> {
    wire: Box<dyn Wire>,
    /// Where messages are put together and taken apart: memory that is there already when it matters.
    buffer: Vec<u8>,
    /// Whether a message must come and go within a time.
    has_deadlines: bool,
    messages: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned + Words> ControlLink<S, R> {
    /// Over a wire on which greetings have been exchanged.
    pub fn new(wire: Box<dyn Wire>) -> ControlLink<S, R> {
        // Zeros would be a promise of memory; what has been written to is there.
        ControlLink {
            wire,
            buffer: vec![0xff; USUAL_MESSAGE_BYTES],
            has_deadlines: true,
            messages: PhantomData,
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// [`MessageError`]; then it is not known how much of the message the peer has.
    pub fn send(&mut self, message: &S) -> Result<(), MessageError> {
        self.send_with(message, &[])
    }

    /// Sends one message and the pages that it says follow it.
    ///
    /// # Errors
    /// As [`ControlLink::send`].
    pub fn send_with(&mut self, message: &S, pages: &[RunBytes<'_>]) -> Result<(), MessageError> {
        self.buffer = encode_in(message, std::mem::take(&mut self.buffer))?;
        let page_bytes: usize = pages.iter().map(RunBytes::len).sum();
        self.set_deadline(message_time(self.buffer.len() + page_bytes));
        let sent = self.wire.send_parts(&self.buffer, pages, &[]);
        self.wire.set_deadline(None);
        sent.map_err(|source| MessageError::Link { operation: "send", source })
    }

    /// Receives pages that the last message said follow it.
    ///
    /// # Errors
    /// [`MessageError::Link`].
    pub fn receive_pages(&mut self, pages: RunBytes<'_>) -> Result<(), MessageError> {
        self.set_deadline(message_time(pages.len()));
        let received = self.wire.receive_runs(&[pages]);
        self.wire.set_deadline(None);
        received.map_err(|source| MessageError::Link { operation: "receive", source })
    }

    /// Receives one message. Its first byte may take as long as the wire's patience allows, the rest a few seconds in all.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn receive(&mut self) -> Result<R, MessageError> {
        let mut prefix = [0; PREFIX_BYTES];
        let first = self.wire.receive(&mut prefix[..1]);
        first.map_err(|source| MessageError::Link { operation: "receive", source })?;
        self.set_deadline(MESSAGE_TIME);
        let message = self.receive_rest(prefix);
        self.wire.set_deadline(None);
        message
    }

    /// Receives a message of which the first byte is there.
    fn receive_rest(&mut self, mut prefix: [u8; PREFIX_BYTES]) -> Result<R, MessageError> {
        let link = |source| MessageError::Link { operation: "receive the rest of a message", source };
        self.wire.receive_rest(&mut prefix[1..]).map_err(link)?;
        let (len, crc) = decode_prefix(prefix, R::MAX_BYTES)?;
        if len > USUAL_MESSAGE_BYTES {
            self.set_deadline(message_time(len));
        }
        // Grown as bytes come: a peer that only claims a great length costs nothing.
        let body = &mut self.buffer;
        body.clear();
        while body.len() < len {
            let have = body.len();
            body.resize(len.min(have + (1 << 20)), 0);
            self.wire.receive_rest(&mut body[have..]).map_err(link)?;
        }
        decode_message(crc, body)
    }

    /// As [`Wire::outlast`]: from here on no message is late.
    pub fn outlast(&mut self) {
        self.has_deadlines = false;
        self.wire.outlast();
    }

    fn set_deadline(&mut self, left: Duration) {
        self.wire.set_deadline(self.has_deadlines.then_some(left));
    }

    /// The wire beneath, for its limits on waiting.
    pub fn wire(&mut self) -> &mut dyn Wire {
        &mut *self.wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pages::Digest,
        protocol::{Along, FromSource, Missing, StateMessage},
    };
    use proptest::prelude::*;

    fn a_message() -> FromSource {
        FromSource::State(StateMessage {
            state: vec![1, 2, 3, 4],
            missing: Missing::Runs(vec![(1, 2), (9, 3)]),
            along: Along { pages: vec![7], digest: Digest(9) },
            digest: Some(Digest(5)),
            console: b"hello".to_vec(),
        })
    }

    fn decode(bytes: &[u8]) -> Result<FromSource, MessageError> {
        let (len, crc) = decode_prefix(bytes[..PREFIX_BYTES].try_into().unwrap(), MAX_MESSAGE_BYTES)?;
        decode_message(crc, bytes.get(PREFIX_BYTES..PREFIX_BYTES + len).unwrap_or(&[]))
    }

    #[test]
    fn a_message_survives_and_any_damage_is_found() {
        let good = encode_message(&a_message()).unwrap();
        assert_eq!(decode(&good).unwrap(), a_message());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_anything_is_allocated() {
        let error = decode(&[0xff; PREFIX_BYTES]).unwrap_err();
        assert!(matches!(error, MessageError::TooLong { claimed: 0xffff_ffff, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn noise_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ignored = decode_message::<FromSource>(crc32fast::hash(&body), &body);
            let _ignored = decode_message::<crate::protocol::FromDestination>(crc32fast::hash(&body), &body);
        }
    }
}
