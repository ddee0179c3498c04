//! Why bytes are refused.

use core::fmt;

use crate::layout::{TELEMETRY_BYTES, VERSION};

/// Why bytes are no telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotError {
    /// Fewer bytes than [`TELEMETRY_BYTES`].
    Truncated {
        /// How many there are.
        bytes: usize,
    },
    /// No magic: no guest of this kind, or one that has not begun to boot.
    NotStarted,
    /// A guest built with another layout.
    Version {
        /// Its version.
        found: u64,
    },
    /// A word that has no such value.
    BadWord {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { bytes } => {
                write!(f, "telemetry has {TELEMETRY_BYTES} bytes, these are {bytes}")
            }
            Self::NotStarted => f.write_str("no telemetry here: the guest has not started, or is another"),
            Self::Version { found } => {
                write!(f, "telemetry of version {found}, this program reads {VERSION}")
            }
            Self::BadWord { name, value } => {
                write!(f, "telemetry's {name} is {value:#x}, which is none")
            }
        }
    }
}

impl core::error::Error for SnapshotError {}
