//! The first bytes on every link, in a layout that no version may ever change: so that two versions
//! can at least tell each other who they are.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

/// The protocol's version. A peer of another is refused in a sentence.
pub const VERSION: u16 = 5;
/// Bytes of a greeting.
pub const GREETING_BYTES: usize = size_of::<Wire>();

const MAGIC: [u8; 8] = *b"FERRYMIG";

/// Names one migration on all of its links.
pub type MigrationId = [u8; 16];

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Messages.
    Control = 1,
    /// Pages, in frames.
    Bulk = 2,
    /// Page requests and their answers.
    Urgent = 3,
    /// Frames of the guest's network.
    Network = 4,
}

/// Who opens or answers a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Which migration it belongs to.
    pub migration: MigrationId,
    /// What the link is for.
    pub role: Role,
}

/// Why a peer's first bytes are not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GreetingError {
    /// Something else listens or calls there.
    #[error("the peer does not speak Ferry's protocol: it said {} (is this the port of another service?)", shown(.said))]
    NotFerry {
        /// The first bytes it sent.
        said: [u8; 8],
    },
    /// A Ferry of another protocol version.
    #[error(
        "the peer speaks version {theirs} of Ferry's protocol and this side version {VERSION}: install the same Ferry on both hosts"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
    },
    /// A role unknown to this version.
    #[error("the peer opened a link for role {0}, which is unknown")]
    Role(u8),
    /// The answer names another migration or role.
    #[error("the peer answered for another migration or another link")]
    Mixed,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wire {
    magic: [u8; 8],
    version: le::U16,
    role: u8,
    reserved: [u8; 5],
    migration: MigrationId,
}

const _: () = assert!(GREETING_BYTES == 32);

impl Greeting {
    /// As bytes for the wire.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let wire = Wire {
            magic: MAGIC,
            version: VERSION.into(),
            role: self.role as u8,
            reserved: [0; 5],
            migration: self.migration,
        };
        zerocopy::transmute!(wire)
    }

    /// From bytes off the wire.
    ///
    /// # Errors
    /// [`GreetingError`]: no Ferry, or another version of it.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Greeting, GreetingError> {
        Greeting::check_magic(bytes)?;
        let wire: Wire = zerocopy::transmute!(*bytes);
        if wire.version.get() != VERSION {
            return Err(GreetingError::Version { theirs: wire.version.get() });
        }
        let role = [Role::Control, Role::Bulk, Role::Urgent, Role::Network]
            .into_iter()
            .find(|&role| role as u8 == wire.role);
        Ok(Greeting { migration: wire.migration, role: role.ok_or(GreetingError::Role(wire.role))? })
    }

    /// Whether the first 8 bytes are a Ferry's, of whatever version.
    ///
    /// # Errors
    /// [`GreetingError::NotFerry`].
    pub fn check_magic(bytes: &[u8; GREETING_BYTES]) -> Result<(), GreetingError> {
        let mut said = [0; 8];
        said.copy_from_slice(&bytes[..8]);
        (said == MAGIC).then_some(()).ok_or(GreetingError::NotFerry { said })
    }

    /// Checks that `answer` is the answer to this greeting: the same words.
    ///
    /// # Errors
    /// As [`Greeting::decode`], and [`GreetingError::Mixed`].
    pub fn check_answer(&self, answer: &[u8; GREETING_BYTES]) -> Result<(), GreetingError> {
        (Greeting::decode(answer)? == *self).then_some(()).ok_or(GreetingError::Mixed)
    }
}

fn shown(said: &[u8; 8]) -> String {
    format!("{:?}", String::from_utf8_lossy(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: Greeting = Greeting { migration: [7; 16], role: Role::Urgent };

    #[test]
    fn a_greeting_is_answered_by_the_same_words() {
        let bytes = GREETING.encode();
        assert_eq!(Greeting::decode(&bytes), Ok(GREETING));
        assert_eq!(GREETING.check_answer(&bytes), Ok(()));
        let other = Greeting { role: Role::Bulk, ..GREETING };
        assert_eq!(other.check_answer(&bytes), Err(GreetingError::Mixed));
    }

    #[test]
    fn a_web_server_and_another_version_are_told_apart() {
        let mut bytes = GREETING.encode();
        bytes[8] = 9;
        assert_eq!(Greeting::decode(&bytes), Err(GreetingError::Version { theirs: 9 }));
        bytes[..8].copy_from_slice(b"HTTP/1.1");
        let error = Greeting::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("\"HTTP/1.1\""), "{error}");
    }
}
