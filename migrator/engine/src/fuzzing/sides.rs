//! Either side of a migration against a peer who says messages and frames in an order of its own.
//!
//! Whatever it says, the guest runs on at its source until it was given up, with all of its memory; and where a
//! destination says that pages are missing, some are.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use super::{
    frames::{booted, description},
    script::{PAGES, Script, add_frame},
    wire::{Said, ScriptWire},
};
use crate::{
    destination::{ReceiveError, receive},
    options::{Options, Verify},
    pages::{Digest, PAGE_SIZE, PageRun, PageSet},
    protocol::{
        Along, FaultTimes, FrameKind, FrameWriter, FromDestination, FromSource, GREETING_BYTES, Greeting,
        LoadTimes, MAX_FAULT_BUCKETS, MigrationId, Missing, Offer, Role, StateMessage, encode_message,
    },
    report::Outcome,
    sim::{SimHost, SimVm},
    source::migrate,
    strategy::Strategy,
    transport::{Acceptor, Connector, Interrupt, Wire},
    vm::{SourceVm, VmDescription},
};

const VERIFY: [Verify; 3] = [Verify::No, Verify::BeforeStart, Verify::AfterStart];
/// More than a migration has rounds.
const MARKS: usize = 40;
const MIGRATION: MigrationId = [7; 16];

/// A source against a destination that says what the script says.
pub(super) fn source(script: &mut Script<'_>) -> Outcome {
    let how = script.byte();
    let strategy = Strategy::ALL[usize::from(how % 4)];
    let options = Options { verify: VERIFY[usize::from(how / 4 % 3)], ..Options::default() };
    let mut marks = Vec::new();
    for _ in 0..if how & 0x80 == 0 { MARKS } else { usize::from(script.byte() % 4) } {
        marks.extend(FrameWriter::default().encode(FrameKind::Mark, 0, &[]));
    }
    let mut requests = Vec::new();
    for _ in 0..script.byte() % 4 {
        add_frame(script, &mut requests);
    }
    let words = conversation(script, &destination_says);
    // In the order in which a source opens its links.
    let links = Links([words, marks, requests].map(ScriptWire::that_greets).map(boxed).into());

    let mut vm = booted();
    let connector = Connects(Mutex::new(links));
    let report = migrate(&mut vm, &connector, strategy, &options, &Interrupt::default(), &Default::default());
    let runs_here = match report.outcome {
        Outcome::Failed | Outcome::Cancelled => true,
        Outcome::Completed | Outcome::Ended | Outcome::Unknown | Outcome::Interrupted => false,
    };
    assert_eq!(vm.is_running(), runs_here, "{:?}: {:?}", report.outcome, report.error);
    assert_eq!(vm.check().expect("a guest").errors, 0, "the guest's memory is whole");
    report.outcome
}

/// A destination against a source that says what the script says.
pub(super) fn destination(script: &mut Script<'_>) -> Result<(), ReceiveError<SimVm>> {
    let mut pages = Vec::new();
    for _ in 0..script.byte() % 8 {
        add_frame(script, &mut pages);
    }
    let mut answers = Vec::new();
    for _ in 0..script.byte() % 4 {
        add_frame(script, &mut answers);
    }
    let words = conversation(script, &source_says);
    let mut bulk = greets_as(Role::Bulk, &pages);
    let urgent = greets_as(Role::Urgent, &answers).ends_with(&mut bulk);
    let control = greets_as(Role::Control, &words);
    let said = control.said();
    let mut links = OnceAnswered { said, links: Links([control, bulk, urgent].map(boxed).into()) };
    let arrived = receive(
        &mut SimHost { max_pages: 1 << 12, ..SimHost::default() },
        &mut links,
        &Interrupt::default(),
        |_, _| (),
    );
    if let Err(ReceiveError::Interrupted { missing_pages, .. }) = &arrived {
        assert!(*missing_pages > 0, "interrupted, and nothing is missing");
    }
    arrived.map(|_| ())
}

fn greets_as(role: Role, bytes: &[u8]) -> ScriptWire {
    ScriptWire::new([&Greeting::new(MIGRATION, role).encode(), bytes].concat())
}

fn boxed(wire: ScriptWire) -> Box<dyn Wire> {
    Box::new(wire)
}

/// Messages in the right order for a while, and then in any.
fn conversation(script: &mut Script<'_>, say: &dyn Fn(&mut Script<'_>, u8) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let in_order = script.byte() % 16;
    for step in 0..in_order {
        bytes.extend(say(script, step).unwrap_or_default());
    }
    while !script.0.is_empty() {
        let step = script.byte();
        match say(script, step) {
            Some(message) => bytes.extend(message),
            None => bytes.extend(script.bytes()),
        }
    }
    bytes
}

/// What a destination says at a step of its conversation, with numbers of the script's.
fn destination_says(script: &mut Script<'_>, step: u8) -> Option<Vec<u8>> {
    let message = match step {
        0 => FromDestination::Accepted { load_us: script.number() },
        1..=5 => FromDestination::Probe,
        6 => FromDestination::Loaded(LoadTimes {
            pages_us: script.number(),
            verify_us: script.number(),
            load_us: script.number(),
        }),
        7 => FromDestination::Running { start_us: script.number() },
        8 => FromDestination::Complete {
            digest: digest(script),
            faults: FaultTimes {
                count: script.number(),
                p50_us: script.number(),
                p99_us: script.number(),
                max_us: script.number(),
                blocktime_us: script.number(),
                histogram: script
                    .bytes()
                    .iter()
                    .take(MAX_FAULT_BUCKETS + 1)
                    .map(|&byte| u64::from(byte) << (byte % 60))
                    .collect(),
            },
        },
        9 => FromDestination::Refused { reason: String::from_utf8_lossy(script.bytes()).into_owned() },
        10 => FromDestination::Abort { reason: String::from_utf8_lossy(script.bytes()).into_owned() },
        _ => return None,
    };
    Some(encode_message(&message).expect("a short message"))
}

/// What a source says at a step of its conversation.
fn source_says(script: &mut Script<'_>, step: u8) -> Option<Vec<u8>> {
    let message = match step {
        0 => offer(script),
        1 | 2 => FromSource::Probe,
        3 => {
            let (state, missing) = (state(script), missing(script));
            let ((along, bytes), digest) = (along(script), digest(script));
            let message =
                FromSource::State(StateMessage { state, missing, along, digest, console: Vec::new() });
            return Some([encode_message(&message).expect("a short message"), bytes].concat());
        }
        4 => FromSource::Start { valid_ms: 60_000 },
        5 => FromSource::Abort { reason: String::from_utf8_lossy(script.bytes()).into_owned() },
        _ => return None,
    };
    Some(encode_message(&message).expect("a short message"))
}

fn offer(script: &mut Script<'_>) -> FromSource {
    let how = script.byte();
    let mut vm = description();
    if how & 0xe0 == 0xe0 {
        let name = String::from_utf8_lossy(script.bytes()).into_owned();
        vm = VmDescription { name, page_count: script.number(), machine: script.bytes().to_vec(), ..vm };
    }
    FromSource::Offer(Offer {
        vm: vm.into(),
        bulk_links: 1,
        may_miss_pages: how & 1 == 0,
        has_network: how & 0x1e == 0x1e,
        populate: how & 2 != 0,
        digest: how & 4 != 0,
        rehearsal: state(script),
        console: b"hello".to_vec(),
    })
}

/// A state that fits, now and then cut short.
fn state(script: &mut Script<'_>) -> Vec<u8> {
    static STATE: OnceLock<Vec<u8>> = OnceLock::new();
    let state = STATE.get_or_init(|| booted().save_state().expect("a simulated guest saves"));
    let cut = script.byte();
    state[..if cut < 240 { state.len() } else { usize::from(cut - 240).min(state.len()) }].to_vec()
}

fn missing(script: &mut Script<'_>) -> Missing {
    match script.byte() % 8 {
        0..=2 => Missing::Everything,
        3 | 4 => Missing::Nothing,
        5 => {
            let mut set = PageSet::empty(PAGES);
            script.bytes().iter().for_each(|&page| set.insert_run(PageRun::one(u64::from(page) % PAGES)));
            Missing::from_set(&set)
        }
        _ => Missing::Runs((0..script.byte() % 4).map(|_| (script.number(), script.number())).collect()),
    }
}

/// Pages along, and what follows the message for them.
fn along(script: &mut Script<'_>) -> (Along, Vec<u8>) {
    let (mut along, mut bytes) = (Along::default(), Vec::new());
    for _ in 0..script.byte() % 4 {
        let page = script.number();
        let length = if script.byte() < 240 { PAGE_SIZE } else { usize::from(script.byte()) };
        let filled = vec![script.byte(); length];
        if length == PAGE_SIZE && page < PAGES {
            along.digest.add_any(page, &filled);
        }
        along.pages.push(page);
        bytes.extend(filled);
    }
    (along, bytes)
}

fn digest(script: &mut Script<'_>) -> Option<Digest> {
    (script.byte() >= 128).then(|| Digest(script.number()))
}

/// Links in the order in which they are opened.
struct Links(VecDeque<Box<dyn Wire>>);

impl Acceptor for Links {
    fn accept(&mut self, _: &Interrupt, _: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        self.0.pop_front().ok_or(io::ErrorKind::ConnectionAborted.into())
    }
}

/// As a source does, opens the other links once its offer is answered, or its control link has ended.
struct OnceAnswered {
    said: Said,
    links: Links,
}

impl Acceptor for OnceAnswered {
    fn accept(&mut self, interrupt: &Interrupt, timeout: Option<Duration>) -> io::Result<Box<dyn Wire>> {
        let is_answered = || {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.len() > GREETING_BYTES || Arc::strong_count(&self.said) == 1
        };
        let is_first = self.links.0.len() == 3;
        while !is_first && !is_answered() {
            if interrupt.is_raised() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            thread::sleep(Duration::from_micros(50));
        }
        self.links.accept(interrupt, timeout)
    }
}

struct Connects(Mutex<Links>);

impl Connector for Connects {
    fn connect(&self, interrupt: &Interrupt) -> io::Result<Box<dyn Wire>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).accept(interrupt, None)
    }

    fn address(&self) -> String {
        "nowhere".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script can say all that an honest destination does.
    #[test]
    fn an_honest_destination_gets_the_guest() {
        for how in 0..9 {
            assert_eq!(source(&mut Script(&[how, 0, 9])), Outcome::Completed, "{how}");
        }
        // Gone after the word to start, and before the guest runs.
        assert_eq!(source(&mut Script(&[0, 0, 7])), Outcome::Unknown);
        assert_eq!(source(&mut Script(&[0, 0, 6])), Outcome::Failed);
    }

    /// A script can say all that an honest source does: nothing before the start, and all pages after it.
    #[test]
    fn an_honest_source_brings_the_guest() {
        let stage_end = [14, 0, 0];
        let all_pages = [5, 0, 0, 1, 0, PAGES as u8, 7, 0];
        let conversation = [0, 5];
        let bulk =
            |frames: &[&[u8]]| [&[frames.len() as u8], frames.concat().as_slice(), &conversation].concat();
        let whole = bulk(&[&stage_end, &all_pages, &stage_end]);
        assert!(destination(&mut Script(&whole)).is_ok());
        // The guest waits for its first page as it is loaded.
        assert!(destination(&mut Script(&bulk(&[&stage_end, &stage_end]))).is_err());
    }
}
