//! The first bytes of a link, and headers of network frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migrator::protocol::{
    GREETING_BYTES, Greeting, MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkHeader,
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(greeting) = bytes.first_chunk::<GREETING_BYTES>()
        && let Ok(decoded) = Greeting::decode(greeting)
    {
        assert_eq!(Greeting::decode(&decoded.encode()), Ok(decoded));
        assert!(decoded.check_answer(&decoded.encode()).is_ok());
    }
    if let Some(header) = bytes.first_chunk::<NETWORK_HEADER_BYTES>()
        && let Ok(Some((_, len))) = NetworkHeader::decode(*header)
    {
        assert!((1..=MAX_NETWORK_FRAME_BYTES).contains(&len));
    }
});
