//! Entry points for `fuzz/`. No part of the library.

pub use crate::state::fuzzing::state;

/// Bytes as the driver of a network card.
pub fn virtio_net(bytes: &[u8]) {
    crate::devices::virtio::hostile::net(bytes);
}

/// Bytes as the driver of a source of random bytes.
pub fn virtio_rng(bytes: &[u8]) {
    crate::devices::virtio::hostile::rng(bytes);
}
