//! The bytes of every greeting, message and frame of this version of the protocol, held to a file: what two releases say to
//! each other changes with a version, and never by accident.

mod documented;
mod frames;
mod hex;
mod messages;

use std::{collections::BTreeMap, path::PathBuf};

use engine::protocol::VERSION;
use hex::{from_hex, to_hex};

/// Names of what goes over the wire, and its bytes.
type Samples = Vec<(String, Vec<u8>)>;

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/version-{VERSION}.txt"))
}

/// All that goes over the wire, as this build says it.
fn samples() -> Samples {
    [messages::greetings(), messages::messages(), frames::frames(), frames::network()].concat()
}

/// What the file of this version says.
fn golden() -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(file()).unwrap_or_else(|error| {
        panic!("{}: {error}; a new version? FERRY_BLESS=1 writes its file", file().display())
    });
    let line = |line: &str| {
        let (name, bytes) = line.split_once(": ").expect("a name and bytes");
        (name.to_owned(), from_hex(bytes))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

/// What differs from the file, by name.
fn differences(samples: &Samples, golden: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let gone = golden.keys().filter(|name| samples.iter().all(|(found, _)| found != *name)).cloned();
    let changed = samples.iter().filter(|(name, bytes)| golden.get(name) != Some(bytes));
    gone.chain(changed.map(|(name, _)| name.clone())).collect()
}

#[test]
fn the_wire_is_that_of_its_version() {
    let samples = samples();
    if std::env::var_os("FERRY_BLESS").is_some() {
        let mut text =
            format!("# Version {VERSION} of Ferry's protocol. Written by tests/golden with FERRY_BLESS=1.\n");
        samples.iter().for_each(|(name, bytes)| text += &format!("{name}: {}\n", to_hex(bytes)));
        std::fs::write(file(), text).unwrap();
    }
    let differ = differences(&samples, &golden());
    assert!(
        differ.is_empty(),
        "the wire of version {VERSION} has changed ({}): new version? If {VERSION} was released, raise VERSION in \
         protocol/greeting.rs; then write its file with FERRY_BLESS=1, and describe the change in docs/protocol.md",
        differ.join(", ")
    );
}

/// The test above would notice a byte.
#[test]
fn one_changed_byte_is_noticed() {
    let mut samples = samples();
    assert!(differences(&samples, &golden()).is_empty());
    for at in 0..samples.len() {
        *samples[at].1.last_mut().unwrap() ^= 1;
        assert_eq!(differences(&samples, &golden()), [samples[at].0.clone()]);
        *samples[at].1.last_mut().unwrap() ^= 1;
    }
    let (gone, _) = samples.remove(3);
    assert_eq!(differences(&samples, &golden()), [gone]);
}
