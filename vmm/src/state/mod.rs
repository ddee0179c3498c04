//! A machine's saved state as bytes.
//!
//! ```text
//! magic (8) · format version (4) · total bytes (4)
//! then per section:  name (8) · version (2) · instance (2) · payload bytes (4) · CRC-32 (4) · payload
//! ```
//! All numbers are little-endian. The CRC covers the section's header before it and its payload. Payloads are postcard.
//! The format has its own version, apart from the program's.
//!
//! Decoding is pure and takes nothing on trust: every length is checked against what is there and against a named limit
//! before anything is allocated, each section must come exactly as often as it should, and all of it is decoded before
//! any of it is applied.
//!
//! - `section`: the frame, without meaning;
//! - `machine`: which sections there are and what is in them, and how they are written; `decode`: how they are read;
//! - `error`: what may be wrong with them.

mod decode;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod machine;
mod section;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::error::DecodeError;
pub(crate) use self::machine::{ClockState, Encoder, MachineShape, MachineState};
pub use self::section::{FORMAT_VERSION, MAX_STATE_BYTES, SectionError};

/// Bytes that serde takes as one piece, not one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneRun;

        impl Visitor<'_> for OneRun {
            type Value = Bytes;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(OneRun)
    }
}
