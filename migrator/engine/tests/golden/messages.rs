//! Greetings, and the messages of both sides.

use engine::{
    pages::Digest,
    protocol::{
        Along, Capabilities, FaultTimes, FromDestination, FromSource, GREETING_BYTES, Greeting, GuestEnded,
        LoadTimes, Missing, Offer, OfferedVm, Role, StateMessage, decode_message, encode_message,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Samples, golden};

/// Length and checksum stand in front.
const PREFIX_BYTES: usize = 8;
const MIGRATION: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn all_greetings() -> Vec<(String, Greeting)> {
    let mut all: Vec<_> =
        Role::ALL.map(|role| (format!("greeting {role:?}"), Greeting::new(MIGRATION, role))).to_vec();
    let capabilities = Capabilities { recovery: true, ..Capabilities::OURS };
    let reserved = Greeting { capabilities, ..Greeting::new(MIGRATION, Role::Control) };
    all.push(("greeting with recovery".to_owned(), reserved));
    all
}

pub fn greetings() -> Samples {
    all_greetings().into_iter().map(|(name, greeting)| (name, greeting.encode().to_vec())).collect()
}

pub fn messages() -> Samples {
    let encode = |name: &str, bytes: Result<Vec<u8>, _>| (name.to_owned(), bytes.expect("a short message"));
    let source = from_source();
    let destination = from_destination();
    let source = source.iter().map(|message| encode(name_of_source(message).0, encode_message(message)));
    let destination =
        destination.iter().map(|message| encode(name_of_destination(message).0, encode_message(message)));
    source.chain(destination).collect()
}

/// One that is added gets a name here, and a sample in [`from_source`].
fn name_of_source(message: &FromSource) -> (&'static str, usize) {
    match message {
        FromSource::Offer(_) => ("source says Offer", 0),
        FromSource::Probe => ("source says Probe", 1),
        FromSource::State(StateMessage { missing, .. }) => match missing {
            Missing::Nothing => ("source says State, nothing missing", 2),
            Missing::Everything => ("source says State, everything missing", 3),
            Missing::Runs(_) => ("source says State, runs missing", 4),
        },
        FromSource::Start { .. } => ("source says Start", 5),
        FromSource::Abort { .. } => ("source says Abort", 6),
    }
}

fn name_of_destination(message: &FromDestination) -> (&'static str, usize) {
    match message {
        FromDestination::Accepted { .. } => ("destination says Accepted", 0),
        FromDestination::Refused { .. } => ("destination says Refused", 1),
        FromDestination::Probe => ("destination says Probe", 2),
        FromDestination::Loaded(_) => ("destination says Loaded", 3),
        FromDestination::Confirm => ("destination says Confirm", 4),
        FromDestination::Running { .. } => ("destination says Running", 5),
        FromDestination::Ended(_) => ("destination says Ended", 6),
        FromDestination::Resend(_) => ("destination says Resend", 7),
        FromDestination::Complete { digest: None, .. } => ("destination says Complete", 8),
        FromDestination::Complete { digest: Some(_), .. } => ("destination says Complete with a digest", 9),
        FromDestination::Abort { .. } => ("destination says Abort", 10),
    }
}

fn from_source() -> Vec<FromSource> {
    let offer = Offer {
        vm: OfferedVm {
            name: "demo".to_owned(),
            kind: "kvm".to_owned(),
            page_count: 262_144,
            vcpus: 4,
            image: Some("pulse".to_owned()),
            paused: false,
            machine: vec![0xc0, 0xff, 0xee],
        },
        bulk_links: 1,
        may_miss_pages: true,
        has_network: true,
        populate: false,
        digest: true,
        rehearsal: vec![1, 2, 3],
        console: b"hello\n".to_vec(),
    };
    let state = |missing, digest| {
        FromSource::State(StateMessage {
            state: vec![4, 5, 6],
            missing,
            along: Along { pages: vec![7, 300], digest: Digest(0x0102_0304_0506_0708) },
            digest,
            console: b"$ ".to_vec(),
        })
    };
    vec![
        FromSource::Offer(offer),
        FromSource::Probe,
        state(Missing::Nothing, Some(Digest(9))),
        state(Missing::Everything, None),
        state(Missing::Runs(vec![(0, 3), (1000, 512)]), None),
        FromSource::Start { valid_ms: 15_000 },
        FromSource::Abort { reason: "cancelled".to_owned() },
    ]
}

fn from_destination() -> Vec<FromDestination> {
    let reason = || "no room".to_owned();
    let faults = FaultTimes {
        count: 3,
        p50_us: 90,
        p99_us: 400,
        max_us: 401,
        blocktime_us: 580,
        histogram: vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 1],
    };
    vec![
        FromDestination::Accepted { load_us: 250 },
        FromDestination::Refused { reason: reason() },
        FromDestination::Probe,
        FromDestination::Loaded(LoadTimes { pages_us: 1, verify_us: 2, load_us: 300 }),
        FromDestination::Confirm,
        FromDestination::Running { start_us: 77 },
        FromDestination::Ended(GuestEnded { exit_code: 7, words: "the guest exited with code 7".to_owned() }),
        FromDestination::Resend(Missing::Runs(vec![(5, 1)])),
        FromDestination::Complete { digest: None, faults: FaultTimes::default() },
        FromDestination::Complete { digest: Some(Digest(u64::MAX)), faults },
        FromDestination::Abort { reason: reason() },
    ]
}

fn read<M: DeserializeOwned>(bytes: &[u8]) -> Option<M> {
    let (prefix, body) = bytes.split_at_checked(PREFIX_BYTES)?;
    let [a, b, c, d, e, f, g, h] = prefix.try_into().ok()?;
    (u32::from_le_bytes([a, b, c, d]) as usize == body.len()).then_some(())?;
    decode_message(u32::from_le_bytes([e, f, g, h]), body).ok()
}

/// The golden bytes are read as what they were made of, and as nothing where they are cut short.
fn assert_read<M>(name: &str, message: &M)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = &golden()[name];
    assert_eq!(read::<M>(bytes).as_ref(), Some(message), "{name}");
    for length in 0..bytes.len() {
        assert_eq!(read::<M>(&bytes[..length]), None, "{name}, {length} bytes");
        let body = bytes[PREFIX_BYTES..].get(..length).filter(|body| body.len() < bytes.len() - PREFIX_BYTES);
        if let Some(body) = body {
            // With a checksum that is right.
            assert!(
                decode_message::<M>(crc32fast::hash(body), body).is_err(),
                "{name}, a body of {length} bytes"
            );
        }
    }
}

#[test]
fn golden_greetings_are_read() {
    let golden = golden();
    for (name, greeting) in all_greetings() {
        let bytes: &[u8; GREETING_BYTES] = golden[&name].as_slice().try_into().expect("a greeting's length");
        assert_eq!(Greeting::decode(bytes), Ok(greeting), "{name}");
    }
}

#[test]
fn golden_messages_are_read() {
    from_source().iter().for_each(|message| assert_read(name_of_source(message).0, message));
    from_destination().iter().for_each(|message| assert_read(name_of_destination(message).0, message));
}

#[test]
fn every_message_has_a_sample() {
    let source: Vec<usize> = from_source().iter().map(|message| name_of_source(message).1).collect();
    assert_eq!(source, (0..7).collect::<Vec<_>>());
    let destination: Vec<usize> =
        from_destination().iter().map(|message| name_of_destination(message).1).collect();
    assert_eq!(destination, (0..11).collect::<Vec<_>>());
}
