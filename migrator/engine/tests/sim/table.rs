//! Issue 12: whatever a peer does in whatever phase, what each side says and is. Every cell of the table.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use engine::{
    destination::{Arrival, ReceiveError, receive},
    options::Options,
    protocol::Role,
    report::Outcome,
    sim::{Fault, SimHost, SimVm},
    source::migrate,
    strategy::Strategy,
    transport::{Address, Interrupt},
};

use crate::{
    one_guest::{PAGES, Tried, boot},
    relay::{
        At::{self, Accepted, Complete, Greeting, Loaded, Offer, Push, Running, Start, State},
        Does::{self, Ends, IsStopped, SaysNo, Trickles, Vanishes},
        Relay,
    },
};

/// What the destination is after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing came, and it waits for the next.
    Waits,
    /// A try failed here, with these words.
    Failed(&'static str),
    /// The guest runs here.
    Runs,
    /// The guest is here and lacks pages.
    Interrupted,
}
use Then::{Failed, Interrupted, Runs, Waits};

type Cell = (At, Does, (Outcome, &'static str), Then);

/// It moved.
const MOVED: (Outcome, &str) = (Outcome::Completed, "");

/// The guest runs on at the source.
const fn stays(words: &str) -> (Outcome, &str) {
    (Outcome::Failed, words)
}

/// At the source it is paused and whole.
const fn in_doubt(words: &str) -> (Outcome, &str) {
    (Outcome::Unknown, words)
}

/// At the source it is paused; it was started at the destination.
const fn broken(words: &str) -> (Outcome, &str) {
    (Outcome::Interrupted, words)
}

/// Where it acts, what the side does that is to speak, what the source says of it, and what the destination is. The side
/// that runs the guest has all of its memory right, and the other does not run it: every cell asserts that.
#[rustfmt::skip]
const TABLE: [Cell; 45] = [
    (Greeting, SaysNo,    stays("not as a Ferry"),                  Waits),
    (Greeting, Ends,      stays("is `ferry receive` running"),      Waits),
    (Greeting, Trickles,  stays("moves too little at a time"),      Waits),
    (Greeting, Vanishes,  stays("nothing heard from 127.0.0.1"),    Waits),
    (Greeting, IsStopped, MOVED,                                    Runs),

    (Offer,    SaysNo,    stays("called the migration off: not"),   Waits),
    (Offer,    Ends,      stays("the link to the destination"),     Waits),
    (Offer,    Trickles,  stays("moves too little at a time"),      Waits),
    (Offer,    Vanishes,  stays("nothing heard from 127.0.0.1"),    Waits),
    (Offer,    IsStopped, MOVED,                                    Runs),

    (Accepted, SaysNo,    stays("the destination refuses"),         Failed("cannot take the VM")),
    (Accepted, Ends,      stays("the link to the destination"),     Failed("the link to the source")),
    (Accepted, Trickles,  stays("moves too little at a time"),      Failed("called the migration off")),
    (Accepted, Vanishes,  stays("nothing heard from 127.0.0.1"),    Failed("nothing heard from 127.0.0.1")),
    (Accepted, IsStopped, MOVED,                                    Runs),

    (State,    SaysNo,    stays("called the migration off: not"),   Failed("called the migration off: not")),
    (State,    Ends,      stays("the link to the destination"),     Failed("the link to the source")),
    (State,    Trickles,  stays("moves too little at a time"),      Failed("moves too little at a time")),
    (State,    Vanishes,  stays("nothing heard from 127.0.0.1"),    Failed("nothing heard from 127.0.0.1")),
    (State,    IsStopped, MOVED,                                    Runs),

    (Loaded,   SaysNo,    stays("called the migration off: load"),  Failed("load the state")),
    (Loaded,   Ends,      stays("the link to the destination"),     Failed("the link to the source")),
    (Loaded,   Trickles,  stays("moves too little at a time"),      Failed("called the migration off")),
    (Loaded,   Vanishes,  stays("nothing heard from 127.0.0.1"),    Failed("nothing heard from 127.0.0.1")),
    (Loaded,   IsStopped, MOVED,                                    Runs),

    (Start,    SaysNo,    stays("did not start the guest"),         Failed("called the migration off: not")),
    (Start,    Ends,      in_doubt("the link to the destination"),  Failed("the link to the source")),
    (Start,    Trickles,  stays("did not start the guest"),         Failed("moves too little at a time")),
    (Start,    Vanishes,  in_doubt("nothing heard from 127.0.0.1"), Failed("nothing heard from 127.0.0.1")),
    (Start,    IsStopped, MOVED,                                    Runs),

    (Running,  SaysNo,    stays("did not start the guest"),         Failed("could not be started")),
    (Running,  Ends,      in_doubt("the link to the destination"),  Runs),
    (Running,  Trickles,  in_doubt("moves too little at a time"),   Runs),
    (Running,  Vanishes,  in_doubt("nothing heard from 127.0.0.1"), Runs),
    (Running,  IsStopped, MOVED,                                    Runs),

    (Push,     SaysNo,    broken("the link to the destination"),    Interrupted),
    (Push,     Ends,      broken("the link to the destination"),    Interrupted),
    (Push,     Trickles,  MOVED,                                    Runs),
    (Push,     Vanishes,  MOVED,                                    Runs),
    (Push,     IsStopped, MOVED,                                    Runs),

    (Complete, SaysNo,    broken("called the migration off: not"),  Runs),
    (Complete, Ends,      broken("the link to the destination"),    Runs),
    (Complete, Trickles,  MOVED,                                    Runs),
    (Complete, Vanishes,  MOVED,                                    Runs),
    (Complete, IsStopped, MOVED,                                    Runs),
];

/// How long the destination may take to notice what its source noticed.
const PATIENCE: Duration = Duration::from_secs(12);

fn run(at: At, does: Does) -> (Tried, SimVm, bool) {
    let mut source = boot(1);
    let (mut acceptor, address) = "tcp://127.0.0.1:0".parse::<Address>().unwrap().listen().unwrap();
    acceptor.set_peer_timeout(Duration::from_secs(1));
    let relay = Relay::to(address.to_string().trim_start_matches("tcp://"), at, does);
    let strategy = if at.is_after_handover() { Strategy::PostCopy } else { Strategy::PreCopy };
    let options = Options {
        peer_timeout: Duration::from_secs(1),
        // A push of three seconds.
        max_bandwidth: (at == Push).then_some(8_000_000),
        ..Options::default()
    };
    let mut host = SimHost::default();
    // A destination's own no, where it has one.
    match (at, does) {
        (Accepted, SaysNo) => host.max_pages = PAGES - 1,
        (Loaded, SaysNo) => host.fault = Some((Fault::Load, 3)),
        (Running, SaysNo) => host.fault = Some((Fault::Start, 0)),
        _ => {}
    }
    let interrupt = Interrupt::default();
    thread::scope(|scope| {
        let destination = scope.spawn(|| receive(&mut host, &mut *acceptor, &interrupt, |_, _| ()));
        let connector = format!("tcp://{}", relay.host_and_port).parse::<Address>().unwrap().connector();
        let report =
            migrate(&mut source, &*connector, strategy, &options, &Interrupt::default(), &Arc::default());
        let begin = Instant::now();
        while !destination.is_finished() && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        interrupt.raise();
        let has_acted = relay.has_acted();
        (Tried { report, destination: destination.join().expect("no panic") }, source, has_acted)
    })
}

/// What the destination is, and its words if it failed.
fn then(destination: &Result<Arrival<SimVm>, ReceiveError<SimVm>>, expected: Then) -> (Then, String) {
    match destination {
        Ok(_) => (Runs, String::new()),
        Err(ReceiveError::Accept(_)) => (Waits, String::new()),
        Err(ReceiveError::Interrupted { .. }) => (Interrupted, String::new()),
        Err(error) => {
            let cause =
                std::error::Error::source(error).map(|cause| format!("{cause:?}")).unwrap_or_default();
            let words = format!("{error}: {cause}");
            match expected {
                Failed(wanted) if words.contains(wanted) => (expected, words),
                _ => (Failed(""), words),
            }
        }
    }
}

fn check(cell: Cell) {
    let (at, does, (outcome, words), expected) = cell;
    let context = format!("{at:?} {does:?}");
    let (tried, source, has_acted) = run(at, does);
    let is_its_own_no = matches!((at, does), (Accepted | Loaded | Running, SaysNo));
    assert!(has_acted || is_its_own_no, "{context}: the relay did nothing");
    let said = tried.report.error.clone().unwrap_or_default();
    assert_eq!(
        (tried.report.outcome, expected),
        (outcome, then(&tried.destination, expected).0),
        "{context}: {said:?}, {:?}",
        then(&tried.destination, expected)
    );
    assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{context}: {said:?}");
    tried.assert_one_guest(source, &context);
}

/// All at once: each mostly waits.
#[test]
fn entries_1_4_9_to_12_and_25_whatever_a_peer_does_in_whatever_phase_each_side_says_and_is_what_it_must() {
    let cells: Vec<_> = TABLE.map(|cell| (cell, thread::spawn(move || check(cell)))).into();
    let ends = cells.into_iter().map(|(cell, thread)| (cell, thread.join().is_ok()));
    let wrong: Vec<_> =
        ends.filter(|(_, is_right)| !is_right).map(|((at, does, ..), _)| (at, does)).collect();
    assert!(wrong.is_empty(), "these cells are not as the table says: {wrong:?}");
}

/// What one link was to bring comes by the other, and nothing waits for ever.
#[test]
fn entry_4_a_link_that_stalls_while_its_peer_lives_costs_no_page() {
    let stalls = [Role::Bulk, Role::Urgent].map(|role| {
        (
            role,
            thread::spawn(move || {
                check((Push, Does::Stalls(role), MOVED, Runs));
            }),
        )
    });
    for (role, thread) in stalls {
        assert!(thread.join().is_ok(), "{role:?}");
    }
}

#[test]
fn the_table_has_every_cell() {
    for at in [Greeting, Offer, Accepted, State, Loaded, Start, Running, Push, Complete] {
        for does in [SaysNo, Ends, Trickles, Vanishes, IsStopped] {
            let cells = TABLE.iter().filter(|cell| (cell.0, cell.1) == (at, does)).count();
            assert_eq!(cells, 1, "{at:?} {does:?}");
        }
    }
}
