//! Entry points for `fuzz/`. No part of the library.

pub use crate::state::fuzzing::state;

/// Bytes as the driver of a network card.
pub fn virtio_net(bytes: &[u8]) {
    crate::devices::virtio::hostile::net(bytes);
}

/// Bytes as the driver of a disk.
pub fn virtio_block(bytes: &[u8]) {
    crate::devices::virtio::hostile::block(bytes);
}

/// Bytes as the driver of a console.
pub fn virtio_console(bytes: &[u8]) {
    crate::devices::virtio::hostile::console(bytes);
}

/// Bytes as the driver of a balloon.
pub fn virtio_balloon(bytes: &[u8]) {
    crate::devices::virtio::hostile::balloon(bytes);
}

/// Bytes as the driver of a source of random bytes.
pub fn virtio_rng(bytes: &[u8]) {
    crate::devices::virtio::hostile::rng(bytes);
}
