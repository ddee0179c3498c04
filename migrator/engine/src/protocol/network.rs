//! Frames of the guest's network on the network link: those that reach the source after its guest stood still.
//!
//! ```text
//! ┌──────── header, 8 bytes ────────┐┌── the frame ──┐
//! │ length  port                    ││ as the source's host had it │
//! └─────────────────────────────────┘└───────────────┘
//! ```
//! All numbers are little-endian. A frame of length 0 says that no more come.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

/// The longest frame: 64 KiB and the headers that a host may put in front.
pub const MAX_NETWORK_FRAME_BYTES: usize = (64 << 10) + 256;
/// Bytes of a network frame's header.
pub const NETWORK_HEADER_BYTES: usize = size_of::<NetworkHeader>();

/// What stands in front of a network frame.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetworkHeader {
    len: le::U32,
    port: le::U16,
    reserved: le::U16,
}

const _: () = assert!(NETWORK_HEADER_BYTES == 8);

/// Longer than any frame.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the peer announces a network frame of {claimed} bytes; at most {MAX_NETWORK_FRAME_BYTES} are allowed"
)]
pub struct NetworkFrameTooLong {
    claimed: usize,
}

impl NetworkHeader {
    /// For a frame of `len` bytes that reached a guest's network port.
    pub fn new(port: u16, len: usize) -> NetworkHeader {
        NetworkHeader { len: (len as u32).into(), port: port.into(), reserved: 0.into() }
    }

    /// Says that no more frames come.
    pub fn end() -> NetworkHeader {
        NetworkHeader::new(0, 0)
    }

    /// Port and length; `None` at the end.
    ///
    /// # Errors
    /// A length that no frame has.
    pub fn decode(bytes: [u8; NETWORK_HEADER_BYTES]) -> Result<Option<(u16, usize)>, NetworkFrameTooLong> {
        let header: NetworkHeader = zerocopy::transmute!(bytes);
        match header.len.get() as usize {
            0 => Ok(None),
            claimed if claimed > MAX_NETWORK_FRAME_BYTES => Err(NetworkFrameTooLong { claimed }),
            len => Ok(Some((header.port.get(), len))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire_and_long_ones_are_refused() {
        let decode = |header: NetworkHeader| NetworkHeader::decode(zerocopy::transmute!(header));
        assert_eq!(decode(NetworkHeader::new(3, 1514)), Ok(Some((3, 1514))));
        assert_eq!(decode(NetworkHeader::end()), Ok(None));
        assert_eq!(
            decode(NetworkHeader::new(0, MAX_NETWORK_FRAME_BYTES + 1)),
            Err(NetworkFrameTooLong { claimed: MAX_NETWORK_FRAME_BYTES + 1 })
        );
    }
}
