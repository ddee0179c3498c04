//! Messages on the control link.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrator::protocol::{FromDestination, FromSource, decode_message, encode_message};

/// Length and checksum stand in front.
const PREFIX_BYTES: usize = 8;

fuzz_target!(|bytes: &[u8]| {
    let crc = crc32fast::hash(bytes);
    if let Ok(message) = decode_message::<FromSource>(crc, bytes) {
        if let FromSource::State(state) = &message {
            // As the destination does first of all.
            let _set = state.missing.to_set(64);
        }
        let again = encode_message(&message).expect("what was decoded can be encoded");
        let body = &again[PREFIX_BYTES..];
        let decoded = decode_message::<FromSource>(crc32fast::hash(body), body);
        assert_eq!(decoded.expect("what was encoded can be decoded"), message);
    }
    if let Ok(message) = decode_message::<FromDestination>(crc, bytes) {
        let again = encode_message(&message).expect("what was decoded can be encoded");
        let body = &again[PREFIX_BYTES..];
        let decoded = decode_message::<FromDestination>(crc32fast::hash(body), body);
        assert_eq!(decoded.expect("what was encoded can be decoded"), message);
    }
});
