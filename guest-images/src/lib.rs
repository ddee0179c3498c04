//! The guests that Ferry is tested and measured with, as bytes.
//!
//! ```
//! use guest_images::pulse;
//!
//! let mut line = pulse::CommandLine { vcpus: 2, ..pulse::CommandLine::default() };
//! line.set("working-set", "8MiB").unwrap();
//! assert!(line.to_string().starts_with("pulse fill=random working-set=8388608"));
//! assert!(pulse::IMAGE.starts_with(b"\x7fELF"));
//! ```

/// The built-in guest [`pulse`], an ELF image to boot by PVH.
pub const PULSE: &[u8] = include_bytes!(env!("PULSE"));

/// The built-in bare-metal guest: proves its own memory, measures its own gaps. See `pulse/README.md`.
pub mod pulse {
    /// The ELF image, to boot by PVH.
    pub const IMAGE: &[u8] = super::PULSE;
    /// Least memory it boots in.
    pub const MIN_MEMORY_BYTES: u64 = 16 << 20;
    /// Most memory it maps.
    pub const MAX_MEMORY_BYTES: u64 = 63 << 30;

    pub use telemetry::command_line::ParseError;
    pub use telemetry::{CommandLine, DirtyRate, Fill, Idle, Pattern};
}
