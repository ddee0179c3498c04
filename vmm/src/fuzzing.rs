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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// What the fuzz targets have found worth keeping is run wherever tests are.
    #[test]
    fn the_corpus_does_no_harm() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 6] = [
            ("virtio_net", super::virtio_net),
            ("virtio_rng", super::virtio_rng),
            ("virtio_block", super::virtio_block),
            ("virtio_console", super::virtio_console),
            ("virtio_balloon", super::virtio_balloon),
            ("state", super::state),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut run = 0;
            for file in std::fs::read_dir(&folder).expect("the corpus is in the repository") {
                let path = file.expect("can be listed").path();
                target(&std::fs::read(&path).expect("can be read"));
                run += 1;
            }
            assert!(run > 0, "{} is empty", folder.display());
        }
    }
}
