//! Entry points for `fuzz/`: what a hostile peer may say, made of arbitrary bytes. No part of the library.

mod frames;
mod links;
mod messages;
mod script;
mod sides;
mod wire;

pub use frames::frames;
pub use links::links;
pub use messages::messages;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 3] =
        [("frames", super::frames), ("messages", super::messages), ("links", super::links)];

    /// What the fuzz targets have found worth keeping is run wherever tests are.
    #[test]
    fn the_corpus_does_no_harm() {
        for (name, target) in TARGETS {
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

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }
    }
}
