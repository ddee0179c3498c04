//! The messages on the control link.
//!
//! These types are the wire and nothing else: `counterparts` makes them of the engine's own, and those of them.
//!
//! What is long goes as bytes, not as a sequence of small numbers: the state and the pages beside it are encoded and
//! decoded while the guest stands still, and one byte at a time that took a third of a millisecond.

use serde::{Deserialize, Deserializer, Serialize};

use super::codec::{MAX_MESSAGE_BYTES, Words};
use crate::pages::{Digest, PageNumber, PageRun, PageSet};

/// The longest message of a destination.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The longest reason of a peer that is shown, in characters.
pub const MAX_REASON_CHARACTERS: usize = 300;

/// A peer's words as terminal, log and JSON may show them: on one line, without what a terminal would act on, and not too
/// long.
fn printable(words: &str) -> String {
    // Besides control characters, those that turn a line's direction or cannot be seen.
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown: String =
        words.chars().map(|c| if acts(c) { ' ' } else { c }).take(MAX_REASON_CHARACTERS).collect();
    if words.chars().nth(MAX_REASON_CHARACTERS).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

fn printable_reason<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|words| printable(&words))
}

/// No longer than one is kept.
fn console<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let bytes: Vec<u8> = serde_bytes::deserialize(from)?;
    match bytes.len() {
        0..=MAX_CONSOLE_BYTES => Ok(bytes),
        length => Err(serde::de::Error::invalid_length(length, &"a console's history of 64 KiB at most")),
    }
}

/// No more than there are powers of two.
fn buckets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    let buckets: Vec<u64> = Vec::deserialize(from)?;
    match buckets.len() {
        0..=MAX_FAULT_BUCKETS => Ok(buckets),
        length => Err(serde::de::Error::invalid_length(length, &"a histogram of 65 powers of two at most")),
    }
}

/// The most that is said of what a guest wrote to its console.
pub const MAX_CONSOLE_BYTES: usize = 64 << 10;
/// The most powers of two that times are counted by: those of 64 bits, and zero.
pub const MAX_FAULT_BUCKETS: usize = 65;
/// The most pages that come along with a state.
pub const MAX_PAGES_ALONG: usize = 64;

/// What the source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSource {
    /// May this VM come?
    Offer(Offer),
    /// Say the same back: measures a round trip.
    Probe,
    /// The guest stands still; this is all of its state but memory.
    State(StateMessage),
    /// Run the guest. The source has given it up, and waits for the answer.
    Start {
        /// How long this holds, in milliseconds, from the destination's last word on: one that reads it later asks again
        /// with [`FromDestination::Confirm`] before it starts anything.
        valid_ms: u32,
    },
    /// The migration is off; the guest stays where it is.
    Abort {
        /// Why.
        #[serde(deserialize_with = "printable_reason")]
        reason: String,
    },
}

impl Words for FromSource {
    const MAX_BYTES: usize = MAX_MESSAGE_BYTES;
}

impl Words for FromDestination {
    /// Figures, or a sentence.
    const MAX_BYTES: usize = MAX_ANSWER_BYTES;
}

/// What the destination says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDestination {
    /// The VM may come; everything is ready for it.
    Accepted {
        /// How long loading the rehearsed state took, in microseconds.
        load_us: u64,
    },
    /// It may not.
    Refused {
        /// Why, in a sentence for the user.
        #[serde(deserialize_with = "printable_reason")]
        reason: String,
    },
    /// The answer to a probe.
    Probe,
    /// The state is loaded and all is ready to start.
    Loaded(LoadTimes),
    /// The word to start was read too late to be obeyed unasked: does it still hold?
    Confirm,
    /// The guest runs.
    Running {
        /// From receiving Start to the first vCPU entering the guest, in microseconds.
        start_us: u64,
    },
    /// The guest ended before its last page came: the source is free of duty.
    Ended(GuestEnded),
    /// One of the links that bring missing pages is lost, and these have not come: push them again.
    Resend(Missing),
    /// Every page is there; the source is free of duty.
    Complete {
        /// The digest of all pages as they were installed, if it was asked for.
        digest: Option<Digest>,
        /// How missing pages were waited for.
        faults: FaultTimes,
    },
    /// The migration is off.
    Abort {
        /// Why.
        #[serde(deserialize_with = "printable_reason")]
        reason: String,
    },
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestEnded {
    /// What its process exits with.
    pub exit_code: u8,
    /// What happened, in words.
    #[serde(deserialize_with = "printable_reason")]
    pub words: String,
}

/// A machine that is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedVm {
    /// The name its user gave it.
    pub name: String,
    /// Which kind of machine.
    pub kind: String,
    /// Pages of RAM.
    pub page_count: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// What was booted in it, to be shown.
    pub image: Option<String>,
    /// Its user has paused it.
    pub paused: bool,
    /// Whatever else that kind of machine needs, in a format of its own.
    #[serde(with = "serde_bytes")]
    pub machine: Vec<u8>,
}

/// What the destination must know before it says yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The machine that is to come.
    pub vm: OfferedVm,
    /// How many bulk links will be opened.
    pub bulk_links: u8,
    /// Pages may be missing when the guest starts: the destination must be able to serve faults.
    pub may_miss_pages: bool,
    /// The guest has a network, whose frames are carried over: a link for them will be opened.
    pub has_network: bool,
    /// Pages will be received into memory directly: back it before they come.
    pub populate: bool,
    /// Keep a digest of pages as they are installed.
    pub digest: bool,
    /// The state as it is now, for a rehearsal: whether it can be loaded at all is known before
    /// anything moves, how long that takes goes into the expected downtime, and the code that will
    /// load the real one is warm.
    #[serde(with = "serde_bytes")]
    pub rehearsal: Vec<u8>,
    /// What the guest wrote to its console last, at most [`MAX_CONSOLE_BYTES`].
    #[serde(serialize_with = "serde_bytes::serialize", deserialize_with = "console")]
    pub console: Vec<u8>,
}

/// Which pages are missing when the guest starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// These, as runs in order.
    Runs(Vec<(u64, u64)>),
}

impl Missing {
    /// The message for a set.
    pub fn from_set(set: &PageSet) -> Missing {
        let count = set.len();
        match count {
            0 => Missing::Nothing,
            _ if count == set.page_count() => Missing::Everything,
            _ => Missing::Runs(set.runs().map(|run| (run.first, run.count)).collect()),
        }
    }

    /// Makes `set`, one of the guest's, the set that this names; `None` if it names pages the guest has not, or not in
    /// order.
    pub fn put_into(&self, set: &mut PageSet) -> Option<()> {
        match self {
            Missing::Nothing => set.clear(),
            Missing::Everything => set.fill(),
            Missing::Runs(runs) => {
                set.clear();
                let mut from = 0;
                for &(first, count) in runs {
                    let run = PageRun::new(first, count);
                    let end = run.checked_end().filter(|&end| first >= from && end <= set.page_count())?;
                    set.insert_run(run);
                    from = end;
                }
            }
        }
        Some(())
    }
}

/// The guest's state at the pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMessage {
    /// Everything but memory, as the machine saved it.
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
    /// What is still at the source.
    pub missing: Missing,
    /// Pages that are touched by loading the state, or by the guest's first instructions; only where pages are missing,
    /// and none of those.
    pub along: Along,
    /// The digest of all memory at the pause, to be compared before the guest runs on.
    pub digest: Option<Digest>,
    /// What it has written to its console since the offer, at most [`MAX_CONSOLE_BYTES`].
    #[serde(serialize_with = "serde_bytes::serialize", deserialize_with = "console")]
    pub console: Vec<u8>,
}

/// Pages whose bytes follow the message on its link, one after the other: they go from guest memory to the socket, and
/// from there into a buffer that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Along {
    /// Which, at most [`MAX_PAGES_ALONG`].
    pub pages: Vec<PageNumber>,
    /// The digest of their bytes.
    pub digest: Digest,
}

/// How long the destination took between the state's arrival and readiness, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadTimes {
    /// Waiting for the last pages to be in place.
    pub pages_us: u64,
    /// Comparing digests.
    pub verify_us: u64,
    /// Loading the state.
    pub load_us: u64,
}

/// How long page faults took at the destination, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultTimes {
    /// How many faults were served.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// The sum.
    pub blocktime_us: u64,
    /// How many fell into each power of two of microseconds, at most [`MAX_FAULT_BUCKETS`] of them.
    #[serde(deserialize_with = "buckets")]
    pub histogram: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_the_wire() {
        let mut some = PageSet::empty(100);
        some.insert_run(PageRun::new(3, 5));
        some.insert_run(PageRun::new(70, 30));
        for set in [some, PageSet::empty(100), PageSet::all(100)] {
            for mut found in [PageSet::empty(100), PageSet::all(100)] {
                assert_eq!(Missing::from_set(&set).put_into(&mut found), Some(()));
                assert_eq!(found, set);
            }
        }
    }

    /// Runs that overlap could make a short message cost a pass over the whole set each.
    #[test]
    fn runs_outside_the_guest_or_out_of_order_are_no_set() {
        for runs in [[(0, 5), (97, 4)], [(5, 5), (9, 1)], [(5, 5), (0, 1)], [(0, 1), (u64::MAX, 2)]] {
            assert_eq!(Missing::Runs(runs.to_vec()).put_into(&mut PageSet::empty(100)), None, "{runs:?}");
        }
    }

    #[test]
    fn entry_22_a_consoles_history_survives_the_wire_and_is_bounded() {
        let received = |length| {
            let state = StateMessage {
                state: vec![1, 2],
                missing: Missing::Nothing,
                along: Along::default(),
                digest: None,
                console: vec![b'x'; length],
            };
            let sent = FromSource::State(state);
            let bytes = postcard::to_stdvec(&sent).unwrap();
            postcard::from_bytes::<FromSource>(&bytes).map(|received| assert_eq!(received, sent))
        };
        for length in [0, 1, MAX_CONSOLE_BYTES] {
            received(length).unwrap();
        }
        assert!(received(MAX_CONSOLE_BYTES + 1).is_err());
    }

    fn received(reason: &str) -> String {
        let bytes = postcard::to_stdvec(&FromDestination::Refused { reason: reason.to_owned() }).unwrap();
        match postcard::from_bytes(&bytes).unwrap() {
            FromDestination::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entry_15_a_peers_reason_does_nothing_to_a_terminal_and_is_short() {
        assert_eq!(received("no room: 3 GiB of 2 ü"), "no room: 3 GiB of 2 ü");
        assert_eq!(received("\x1b]0;title\x07 a\nb\u{9b}1m\u{202e}"), " ]0;title  a b 1m ");
        let long = received(&"ü".repeat(2 << 20));
        assert_eq!(long.chars().count(), MAX_REASON_CHARACTERS);
        assert!(long.ends_with('…'));
        assert_eq!(received(&"x".repeat(MAX_REASON_CHARACTERS)).len(), MAX_REASON_CHARACTERS);
    }

    #[test]
    fn the_end_of_a_guest_is_told_in_words_that_do_nothing_to_a_terminal() {
        let end = GuestEnded { exit_code: 3, words: "\x1b[2Jended\n".to_owned() };
        let bytes = postcard::to_stdvec(&FromDestination::Ended(end)).unwrap();
        let expected = GuestEnded { exit_code: 3, words: " [2Jended ".to_owned() };
        assert_eq!(postcard::from_bytes(&bytes), Ok(FromDestination::Ended(expected)));
    }

    #[test]
    fn a_histogram_is_no_longer_than_there_are_powers_of_two() {
        let received = |length| {
            let sent = FaultTimes { histogram: vec![1; length], ..FaultTimes::default() };
            let bytes = postcard::to_stdvec(&sent).unwrap();
            postcard::from_bytes::<FaultTimes>(&bytes).map(|received| assert_eq!(received, sent))
        };
        assert!(received(MAX_FAULT_BUCKETS).is_ok());
        assert!(received(MAX_FAULT_BUCKETS + 1).is_err());
    }
}
