//! What the two sides say to each other, without a socket in sight.
//!
//! A migration is one *control* link, one or more *bulk* links, and one *urgent* link for page
//! requests and their answers. Each opens with a [`Greeting`] that names the migration, the link's role
//! and what its side can do, and is answered by another; both compute what they have in common.
//!
//! ```text
//!  source                                     destination
//!    │ Greeting ─────────────────────────────►  │   (each link)
//!    │ ◄───────────────────────────── Greeting  │
//!    │ Offer ────────────────────────────────►  │   may this VM come? everything is made ready
//!    │ ◄────────────────── Accepted | Refused   │
//!    │ Probe ──────► ◄────── Probe              │   how long a round trip takes
//!    │ page frames ══════════════════════════►  │   rounds, while the guest runs (bulk),
//!    │ mark ═══════════════► ◄═══════════ mark  │   each over when the mark comes back
//!  pause                                        │
//!    │ page frames, end of stage ════════════►  │   what must be there before it starts (bulk)
//!    │ State, pages along ───────────────────►  │   and which pages are still missing
//!    │ ◄──────────────────────────────  Loaded  │   loaded, not started
//!  relinquish                                   │   the handover: from here the source never resumes
//!    │ Start ────────────────────────────────►  │
//!    │ ◄────────────────────────────── Running  │
//!    │ page frames, end of stage ════════════►  │   push (bulk), where pages are missing
//!    │ ◄═══════════════════════ page requests   │   (urgent)
//!    │ page frames ══════════════════════════►  │   (urgent)
//!    │ ◄────────────────────────────  Complete  │   the source is free of duty
//! ```
//!
//! Either side may say `Abort` with a reason until the handover; a link that closes says the same
//! without the reason. To Start, too, the destination may answer `Abort`: then it did not start the guest and never
//! will, and the source takes it back. A Start that the destination reads late, it answers with `Confirm`, and starts
//! nothing before the source has said Start again. After `Running` nothing is undone.
//!
//! Everything here is pure: bytes in, values out. A peer is treated as hostile: every length is held
//! against a named limit before anything is allocated.

mod codec;
mod frame;
mod greeting;
mod message;
mod network;

pub use codec::{ControlLink, MAX_MESSAGE_BYTES, MessageError, decode_message, encode_message};
pub use frame::{
    DIGEST_BYTES, FRAME_TIME, Frame, FrameError, FrameHeader, FrameKind, FrameWriter, HEADER_BYTES,
    MAX_FRAME_PAGES, MAX_FRAME_RUNS, MAX_PAYLOAD_BYTES, RECORD_BYTES, Segment,
};
pub use greeting::{
    Capabilities, Encodings, GREETING_BYTES, Greeting, GreetingError, MAX_BULK_LINKS, MigrationId,
    OLDEST_VERSION, Role, VERSION, Versions,
};
pub use message::{
    Along, FaultTimes, FromDestination, FromSource, GuestEnded, LoadTimes, MAX_ANSWER_BYTES,
    MAX_CONSOLE_BYTES, MAX_FAULT_BUCKETS, MAX_PAGES_ALONG, MAX_REASON_CHARACTERS, Missing, Offer, OfferedVm,
    StateMessage,
};
pub use network::{MAX_NETWORK_FRAME_BYTES, NETWORK_HEADER_BYTES, NetworkFrameTooLong, NetworkHeader};
