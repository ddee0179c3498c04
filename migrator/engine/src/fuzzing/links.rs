//! The first bytes of a link, and frames of the guest's network.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use zerocopy::IntoBytes;

use super::{script::Script, wire::ScriptWire};
use crate::{
    destination::fuzzing::{greet, inject_frames},
    protocol::{
        GREETING_BYTES, Greeting, MAX_NETWORK_FRAME_BYTES, MigrationId, NETWORK_HEADER_BYTES, NetworkHeader,
        Role,
    },
    source::fuzzing::open_link,
    transport::{Connector, Interrupt, Wire},
    vm::{Network, VmError},
};

const ROLES: [Role; 4] = [Role::Control, Role::Bulk, Role::Urgent, Role::Network];
const MIGRATION: MigrationId = [7; 16];
/// The guest's network ports.
const PORTS: u16 = 4;

/// A hostile caller, a hostile answer, or a network link of a hostile source.
pub fn links(bytes: &[u8]) {
    let mut script = Script(bytes);
    match script.byte() % 4 {
        0 => call(greeting(&mut script)),
        1 => answer(&mut script),
        2 => carry(&mut script),
        _ => raw(script.0),
    }
}

/// A greeting, right but for what the script gets wrong.
fn greeting(script: &mut Script<'_>) -> Vec<u8> {
    let role = ROLES[usize::from(script.byte() % 4)];
    let mut bytes = Greeting::new(MIGRATION, role).encode().to_vec();
    while !script.0.is_empty() {
        let (at, by) = (script.byte(), script.byte());
        match at {
            0..=31 => bytes[usize::from(at)] = bytes[usize::from(at)].wrapping_add(by),
            32..=63 => {
                bytes.truncate(usize::from(at - 31));
                return bytes;
            }
            _ => bytes.push(by),
        }
    }
    bytes
}

/// Calls a destination.
fn call(bytes: Vec<u8>) {
    let wire = ScriptWire::new(bytes.clone());
    let said = wire.said();
    let greeting = greet(Box::new(wire));
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(said.len(), GREETING_BYTES, "every caller hears who is here");
    if let Some(greeting) = greeting {
        let Greeting { migration, role, capabilities } = greeting;
        assert_eq!(*said, Greeting::new(migration, role).encode(), "a caller hears what it called for");
        let theirs =
            Greeting::decode(bytes[..GREETING_BYTES].try_into().expect("so many")).expect("a greeting");
        assert_eq!((theirs.migration, theirs.role, theirs.agreed()), (migration, role, Ok(capabilities)));
    }
}

/// Answers a source.
fn answer(script: &mut Script<'_>) {
    let role = ROLES[usize::from(script.byte() % 4)];
    let bytes = greeting(script);
    let asked = (MIGRATION, role);
    let answer = bytes.first_chunk().and_then(|answer| Greeting::decode(answer).ok());
    let is_right = answer.is_some_and(|answer| (answer.migration, answer.role) == asked);
    let opened = open_link(&Answers(Mutex::new(Some(bytes))), MIGRATION, role);
    assert_eq!(opened.is_ok(), is_right, "only one for the same link is an answer");
}

/// Connects to somebody who says given words.
struct Answers(Mutex<Option<Vec<u8>>>);

impl Connector for Answers {
    fn connect(&self, _: &Interrupt) -> io::Result<Box<dyn Wire>> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        bytes
            .map(|bytes| Box::new(ScriptWire::new(bytes)) as Box<dyn Wire>)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

/// Carries frames over to a guest.
fn carry(script: &mut Script<'_>) {
    let (mut bytes, mut frames) = (Vec::new(), Vec::new());
    let mut is_sound = true;
    while !script.0.is_empty() && is_sound {
        let (how, port) = (script.byte(), u16::from(script.byte()));
        let frame = match how {
            0..=199 => vec![how; usize::from(script.byte()) + 1],
            200..=207 => vec![how; MAX_NETWORK_FRAME_BYTES - usize::from(script.byte())],
            208..=215 => vec![how; MAX_NETWORK_FRAME_BYTES + 1 + usize::from(script.byte())],
            _ => Vec::new(),
        };
        let header = NetworkHeader::new(port, frame.len());
        bytes.extend(header.as_bytes());
        bytes.extend(&frame);
        is_sound = how < 208 && port < PORTS;
        if how >= 248 {
            bytes.truncate(bytes.len() - NETWORK_HEADER_BYTES / 2);
        } else if is_sound {
            frames.push((port, frame));
        }
    }
    let guest = Guest::default();
    // An error is as good an answer as any.
    inject_frames(Box::new(ScriptWire::new(bytes)), &guest).ok();
    let got = guest.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(got == frames, "{} frames instead of {}", got.len(), frames.len());
}

/// The bytes as they come, in each place.
fn raw(bytes: &[u8]) {
    call(bytes.to_vec());
    let opened = open_link(&Answers(Mutex::new(Some(bytes.to_vec()))), MIGRATION, Role::Bulk);
    let guest = Guest::default();
    inject_frames(Box::new(ScriptWire::new(bytes.to_vec())), &guest).ok();
    drop((opened, guest));
}

/// A guest's network that keeps what it gets.
#[derive(Default)]
struct Guest(Mutex<Vec<(u16, Vec<u8>)>>);

impl Network for Guest {
    fn take_frame(&self, _: &mut [u8]) -> Result<Option<(u16, usize)>, VmError> {
        Ok(None)
    }

    fn wait(&self, _: Duration) {}

    fn inject(&self, port: u16, frame: &[u8]) -> Result<(), VmError> {
        assert!((1..=MAX_NETWORK_FRAME_BYTES).contains(&frame.len()), "{} bytes", frame.len());
        if port >= PORTS {
            return Err(VmError { operation: "hand over a frame", source: "no such port".into() });
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((port, frame.to_vec()));
        Ok(())
    }

    fn announce(&self) -> Result<(), VmError> {
        Ok(())
    }

    fn learning_time(&self) -> Duration {
        Duration::ZERO
    }
}
