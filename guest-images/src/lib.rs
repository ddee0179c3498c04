//! The guests that Ferry is tested and measured with, as bytes.

/// The built-in bare-metal guest.
pub const PULSE: &[u8] = &[];
