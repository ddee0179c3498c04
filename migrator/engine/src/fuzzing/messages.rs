//! Messages on the control link: by themselves, and what the two sides do when they are said in any order.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    script::{PAGES, Script},
    sides,
    wire::ScriptWire,
};
use crate::pages::PageSet;
use crate::protocol::{ControlLink, FromDestination, FromSource, Missing, decode_message, encode_message};

/// Length and checksum stand in front.
const PREFIX_BYTES: usize = 8;

/// A control link of a hostile peer.
pub fn messages(bytes: &[u8]) {
    let mut script = Script(bytes);
    match script.byte() % 8 {
        0 => one(script.0),
        1 => link(script.0),
        2..=4 => drop(sides::source(&mut script)),
        _ => drop(sides::destination(&mut script)),
    }
}

/// The body of one message.
fn one(body: &[u8]) {
    if let Some(FromSource::State(state)) = survives::<FromSource>(body) {
        // As the destination does first of all.
        let set_of = |missing: &Missing| {
            let mut set = PageSet::empty(PAGES);
            missing.put_into(&mut set).map(|()| set)
        };
        let set = set_of(&state.missing);
        let again = set.as_ref().map(|set| set_of(&Missing::from_set(set)));
        assert_eq!(again.as_ref(), set.is_some().then_some(&set), "a set can be said again");
    }
    survives::<FromDestination>(body);
}

/// What decodes is the same when it is encoded and decoded again.
fn survives<M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<M> {
    let message: M = decode_message(crc32fast::hash(body), body).ok()?;
    let again = encode_message(&message).expect("what was decoded can be encoded");
    let body = &again[PREFIX_BYTES..];
    let decoded: M = decode_message(crc32fast::hash(body), body).expect("what was encoded can be decoded");
    assert_eq!(decoded, message);
    Some(message)
}

/// A link, either side's.
fn link(bytes: &[u8]) {
    let mut from_source: ControlLink<FromDestination, FromSource> =
        ControlLink::new(Box::new(ScriptWire::new(bytes.to_vec())));
    while from_source.receive().is_ok() {}
    let mut from_destination: ControlLink<FromSource, FromDestination> =
        ControlLink::new(Box::new(ScriptWire::new(bytes.to_vec())));
    while from_destination.receive().is_ok() {}
}
