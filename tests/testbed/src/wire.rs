//! What the bed and the agent in a host say to each other, over a virtio-serial port: messages of a length, a kind, the
//! number of a command, and bytes.

use std::io::{self, Read, Write};

/// The name of the port.
pub const PORT: &str = "ferry.agent";

/// Longest message: longer output goes in pieces.
pub const MAX_BYTES: usize = 64 << 10;

const HEADER: usize = 9;

/// Which way, and what about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the host: run the bytes by `sh -c`, as the command of this number.
    Run,
    /// To the host: bytes for the command's input.
    Input,
    /// To the host: that was all of its input.
    EndOfInput,
    /// To the host: kill the command and what it started.
    Kill,
    /// From the host: it is up.
    Ready,
    /// From the host: bytes that the command printed.
    Stdout,
    /// From the host: bytes that it printed to standard error.
    Stderr,
    /// From the host: it has ended, with this status (little-endian `i32`; negative: by a signal).
    Ended,
    /// To the host: what time is it there? From the host: its wall clock (little-endian `i64`, nanoseconds since 1970).
    Clock,
    /// To the host: move the wall clock on by this much (little-endian `i64`, nanoseconds).
    MoveClock,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Run,
        Kind::Input,
        Kind::EndOfInput,
        Kind::Kill,
        Kind::Ready,
        Kind::Stdout,
        Kind::Stderr,
        Kind::Ended,
        Kind::Clock,
        Kind::MoveClock,
    ];
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Which command it is about.
    pub id: u32,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// Writes one message.
///
/// # Errors
/// If the port takes no more, or `bytes` are more than [`MAX_BYTES`].
pub fn write(port: &mut impl Write, kind: Kind, id: u32, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
    }
    let mut message = Vec::with_capacity(HEADER + bytes.len());
    message.extend((bytes.len() as u32).to_le_bytes());
    message.push(kind as u8);
    message.extend(id.to_le_bytes());
    message.extend(bytes);
    port.write_all(&message)
}

/// Reads one message.
///
/// # Errors
/// At the end of the port, or if what comes is no message.
pub fn read(port: &mut impl Read) -> io::Result<Message> {
    let mut header = [0; HEADER];
    port.read_exact(&mut header)?;
    let [l0, l1, l2, l3, kind, i0, i1, i2, i3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let kind = Kind::ALL.get(usize::from(kind)).filter(|_| length <= MAX_BYTES);
    let kind = *kind.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no message"))?;
    let mut bytes = vec![0; length];
    port.read_exact(&mut bytes)?;
    Ok(Message { kind, id: u32::from_le_bytes([i0, i1, i2, i3]), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut port = Vec::new();
        for kind in Kind::ALL {
            write(&mut port, kind, 7, b"ls -l").unwrap();
        }
        let mut port = port.as_slice();
        for kind in Kind::ALL {
            assert_eq!(read(&mut port).unwrap(), Message { kind, id: 7, bytes: b"ls -l".to_vec() });
        }
        assert!(read(&mut port).is_err());
    }

    #[test]
    fn what_is_no_message_is_refused_before_anything_is_allocated() {
        assert!(read(&mut [0xff; 64].as_slice()).is_err());
        assert!(write(&mut Vec::new(), Kind::Input, 0, &[0; MAX_BYTES + 1]).is_err());
    }
}
