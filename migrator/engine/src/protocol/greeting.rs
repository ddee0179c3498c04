//! The first bytes on every link: who speaks, and what it can do.
//!
//! ```text
//!  0        8       10    11          12        14         15        16
//! ┌────────┬───────┬─────┬───────────┬─────────┬──────────┬─────────┬───────────┐
//! │ magic  │newest │role │bulk links │ oldest  │encodings │features │ migration │
//! └────────┴───────┴─────┴───────────┴─────────┴──────────┴─────────┴───────────┘
//!  8 bytes  u16     u8    u8          u16       u8         u8        16 bytes
//! ```
//!
//! Length, magic and both version numbers are where every version, older or newer, finds them, so that two versions can
//! at least tell each other who they are. (Versions up to 4 left `oldest` zero: they spoke `newest` only.) The rest is
//! read only where the versions overlap.
//!
//! Each side says what it can do, and both compute the common part ([`Capabilities::agree`]).

use std::fmt;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::pages::Encoding;

/// The newest version of the protocol that this side speaks.
pub const VERSION: u16 = 5;
/// The oldest one. A peer whose range does not overlap is refused in a sentence.
pub const OLDEST_VERSION: u16 = 5;
/// Bulk links that one migration may have here.
pub const MAX_BULK_LINKS: u8 = 1;
/// Bytes of a greeting.
pub const GREETING_BYTES: usize = size_of::<Wire>();

const MAGIC: [u8; 8] = *b"FERRYMIG";
/// The feature bit of [`Capabilities::recovery`].
const RECOVERY: u8 = 1;

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

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Control, Role::Bulk, Role::Urgent, Role::Network];
}

/// Versions of the protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first.
    pub oldest: u16,
    /// The last.
    pub newest: u16,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Versions { oldest, newest } if oldest == newest => write!(f, "version {newest}"),
            Versions { oldest, newest } => write!(f, "versions {oldest} to {newest}"),
        }
    }
}

/// A set of page encodings: bit n stands for the encoding with number n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encodings(u8);

impl Encodings {
    /// Those of this version.
    pub const ALL: Encodings = Encodings::of(&Encoding::ALL);
    /// Those without which no page can be sent.
    pub const REQUIRED: Encodings = Encodings::of(&[Encoding::Raw, Encoding::Zero]);

    /// The set of these encodings.
    pub const fn of(encodings: &[Encoding]) -> Encodings {
        let (mut bits, mut at) = (0, 0);
        // A const function has no iterators.
        while at < encodings.len() {
            bits |= 1 << encodings[at] as u32;
            at += 1;
        }
        Encodings(bits)
    }

    /// Whether all of `others` are in it.
    pub fn contain(self, others: Encodings) -> bool {
        self.0 & others.0 == others.0
    }
}

/// What a side can do, or, once both have said so, what both can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The versions it speaks.
    pub versions: Versions,
    /// The page encodings it can read.
    pub encodings: Encodings,
    /// The most bulk links it has.
    pub bulk_links: u8,
    /// A migration whose links are lost can be continued over new ones. Reserved: version 5 never says so.
    pub recovery: bool,
}

impl Capabilities {
    /// This side's.
    pub const OURS: Capabilities = Capabilities {
        versions: Versions { oldest: OLDEST_VERSION, newest: VERSION },
        encodings: Encodings::ALL,
        bulk_links: MAX_BULK_LINKS,
        recovery: false,
    };

    /// The common part of both sides' capabilities: the same whichever side computes it. The version spoken is the newest
    /// one of it.
    ///
    /// # Errors
    /// [`GreetingError::Version`], [`GreetingError::Encodings`] and [`GreetingError::BulkLinks`].
    pub fn agree(self, theirs: Capabilities) -> Result<Capabilities, GreetingError> {
        let versions = Versions {
            oldest: self.versions.oldest.max(theirs.versions.oldest),
            newest: self.versions.newest.min(theirs.versions.newest),
        };
        if versions.oldest > versions.newest {
            return Err(GreetingError::Version { theirs: theirs.versions, ours: self.versions });
        }
        let encodings = Encodings(self.encodings.0 & theirs.encodings.0);
        if !encodings.contain(Encodings::REQUIRED) {
            return Err(GreetingError::Encodings);
        }
        let bulk_links = self.bulk_links.min(theirs.bulk_links);
        if bulk_links == 0 {
            return Err(GreetingError::BulkLinks);
        }
        Ok(Capabilities { versions, encodings, bulk_links, recovery: self.recovery && theirs.recovery })
    }
}

/// Who opens or answers a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Which migration it belongs to.
    pub migration: MigrationId,
    /// What the link is for.
    pub role: Role,
    /// What the side that says so can do.
    pub capabilities: Capabilities,
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
    /// A Ferry without a protocol version in common.
    #[error(
        "the peer speaks {theirs} of Ferry's protocol and this side {ours}: install the same Ferry on both hosts"
    )]
    Version {
        /// The peer's versions.
        theirs: Versions,
        /// This side's.
        ours: Versions,
    },
    /// The peer cannot read pages as every version sends them.
    #[error("the peer cannot read pages as this side sends them: install the same Ferry on both hosts")]
    Encodings,
    /// The peer takes no pages.
    #[error("the peer has no link for pages: install the same Ferry on both hosts")]
    BulkLinks,
    /// A role unknown to this version.
    #[error("the peer opened a link for role {0}, which is unknown")]
    Role(u8),
    /// The answer names another migration or role, or other capabilities than on the control link.
    #[error("the peer answered for another migration or another link")]
    Mixed,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wire {
    magic: [u8; 8],
    newest_version: le::U16,
    role: u8,
    bulk_links: u8,
    oldest_version: le::U16,
    encodings: u8,
    features: u8,
    migration: MigrationId,
}

const _: () = assert!(GREETING_BYTES == 32);

impl Greeting {
    /// This side's, for a link of a migration.
    pub fn new(migration: MigrationId, role: Role) -> Greeting {
        Greeting { migration, role, capabilities: Capabilities::OURS }
    }

    /// As bytes for the wire.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let Capabilities { versions, encodings, bulk_links, recovery } = self.capabilities;
        let wire = Wire {
            magic: MAGIC,
            newest_version: versions.newest.into(),
            role: self.role as u8,
            bulk_links,
            oldest_version: versions.oldest.into(),
            encodings: encodings.0,
            features: if recovery { RECOVERY } else { 0 },
            migration: self.migration,
        };
        zerocopy::transmute!(wire)
    }

    /// From bytes off the wire, of a peer with which this side has a version in common.
    ///
    /// # Errors
    /// [`GreetingError`]: no Ferry, or no version in common.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Greeting, GreetingError> {
        Greeting::check_magic(bytes)?;
        let wire: Wire = zerocopy::transmute!(*bytes);
        let newest = wire.newest_version.get();
        let oldest = match wire.oldest_version.get() {
            0 => newest,
            oldest => oldest,
        };
        let capabilities = Capabilities {
            versions: Versions { oldest, newest },
            encodings: Encodings(wire.encodings),
            bulk_links: wire.bulk_links,
            recovery: wire.features & RECOVERY != 0,
        };
        // What follows has a meaning only where the versions overlap.
        Capabilities::OURS.agree(capabilities)?;
        let role = Role::ALL.into_iter().find(|&role| role as u8 == wire.role);
        let role = role.ok_or(GreetingError::Role(wire.role))?;
        Ok(Greeting { migration: wire.migration, role, capabilities })
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

    /// What both sides can do.
    ///
    /// # Errors
    /// As [`Capabilities::agree`].
    pub fn agreed(&self) -> Result<Capabilities, GreetingError> {
        Capabilities::OURS.agree(self.capabilities)
    }

    /// What both sides can do, if `answer` is the answer to this greeting: for the same migration and role.
    ///
    /// # Errors
    /// As [`Greeting::decode`], and [`GreetingError::Mixed`].
    pub fn check_answer(&self, answer: &[u8; GREETING_BYTES]) -> Result<Capabilities, GreetingError> {
        let answer = Greeting::decode(answer)?;
        if (answer.migration, answer.role) != (self.migration, self.role) {
            return Err(GreetingError::Mixed);
        }
        self.capabilities.agree(answer.capabilities)
    }
}

fn shown(said: &[u8; 8]) -> String {
    format!("{:?}", String::from_utf8_lossy(said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting() -> Greeting {
        Greeting::new([7; 16], Role::Urgent)
    }

    /// What a peer with other versions says, whose role and capabilities this side may not know.
    fn says(oldest: u16, newest: u16) -> [u8; GREETING_BYTES] {
        let mut bytes = greeting().encode();
        bytes[8..10].copy_from_slice(&newest.to_le_bytes());
        bytes[12..14].copy_from_slice(&oldest.to_le_bytes());
        bytes
    }

    #[test]
    fn a_greeting_is_answered_for_the_same_link() {
        let bytes = greeting().encode();
        assert_eq!(Greeting::decode(&bytes), Ok(greeting()));
        assert_eq!(greeting().check_answer(&bytes), Ok(Capabilities::OURS));
        let other = Greeting { role: Role::Bulk, ..greeting() };
        assert_eq!(other.check_answer(&bytes), Err(GreetingError::Mixed));
        let other = Greeting { migration: [8; 16], ..greeting() };
        assert_eq!(other.check_answer(&bytes), Err(GreetingError::Mixed));
    }

    #[test]
    fn a_web_server_and_another_version_are_told_apart() {
        let mut bytes = says(9, 9);
        // Nothing behind the versions is read.
        bytes[10] = 0xee;
        let ours = Capabilities::OURS.versions;
        let refused =
            |oldest, newest| Err(GreetingError::Version { theirs: Versions { oldest, newest }, ours });
        assert_eq!(Greeting::decode(&bytes), refused(9, 9));
        // As version 4 says it.
        assert_eq!(Greeting::decode(&says(0, 4)), refused(4, 4));
        // No range at all.
        assert_eq!(Greeting::decode(&says(9, 3)), refused(9, 3));
        let sentence = Greeting::decode(&says(6, 9)).unwrap_err().to_string();
        assert!(sentence.contains("versions 6 to 9") && sentence.contains("version 5"), "{sentence}");
        bytes[..8].copy_from_slice(b"HTTP/1.1");
        let error = Greeting::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("\"HTTP/1.1\""), "{error}");
    }

    #[test]
    fn a_newer_peer_that_still_speaks_this_version_is_welcome() {
        let mut bytes = says(VERSION - 1, VERSION + 4);
        // It has more encodings, links and features.
        (bytes[11], bytes[14], bytes[15]) = (8, 0xff, 0xff);
        let agreed = Greeting::decode(&bytes).and_then(|greeting| greeting.agreed()).unwrap();
        assert_eq!(agreed, Capabilities { bulk_links: MAX_BULK_LINKS, ..Capabilities::OURS });
        assert_eq!(greeting().check_answer(&bytes), Ok(agreed));
    }

    #[test]
    fn a_peer_without_what_every_page_needs_is_refused() {
        let mut bytes = greeting().encode();
        for encodings in [0, 0b01, 0b10] {
            bytes[14] = encodings;
            assert_eq!(Greeting::decode(&bytes), Err(GreetingError::Encodings));
        }
        let mut bytes = greeting().encode();
        bytes[11] = 0;
        assert_eq!(Greeting::decode(&bytes), Err(GreetingError::BulkLinks));
        let mut bytes = greeting().encode();
        bytes[10] = 77;
        assert_eq!(Greeting::decode(&bytes), Err(GreetingError::Role(77)));
    }

    fn any_capabilities() -> impl Strategy<Value = Capabilities> {
        (1u16..9, 1u16..9, any::<u8>(), 0u8..4, any::<bool>()).prop_map(
            |(oldest, newest, encodings, bulk_links, recovery)| Capabilities {
                versions: Versions { oldest, newest },
                encodings: Encodings(encodings),
                bulk_links,
                recovery,
            },
        )
    }

    proptest! {
        #[test]
        fn both_sides_agree_on_the_same(a in any_capabilities(), b in any_capabilities()) {
            match (a.agree(b), b.agree(a)) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours, theirs);
                    // Both can do what was agreed on.
                    prop_assert_eq!((ours.agree(a), ours.agree(b)), (Ok(ours), Ok(ours)));
                }
                (Err(_), Err(_)) => {}
                other => prop_assert!(false, "one side agrees and the other does not: {other:?}"),
            }
        }

        #[test]
        fn noise_never_panics(mut bytes in prop::array::uniform32(any::<u8>()), with_magic: bool) {
            if with_magic {
                bytes[..8].copy_from_slice(&MAGIC);
            }
            if let Ok(greeting) = Greeting::decode(&bytes) {
                prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
            }
        }
    }
}
