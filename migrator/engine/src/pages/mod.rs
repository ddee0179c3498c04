//! Pages: their numbers, runs and sets, and how they travel.
//!
//! A page is named by its place in guest RAM, counted from 0 without holes: page `n` is bytes
//! `n * 4096 .. (n + 1) * 4096` of RAM. Where RAM lies in the guest's address space is the
//! machine's business, not the engine's.
//!
//! Data goes one way: [`PageSet`] says which pages, [`PageStream`] cuts them into frames and sends them
//! straight out of guest memory, [`PageSink`] receives them straight into guest memory.

mod claims;
mod digest;
mod encoding;
mod memory;
mod number;
mod piece;
mod set;
mod sink;
mod stream;

pub use claims::Claims;
pub use digest::{Digest, digest_of};
pub(crate) use encoding::receive_payload;
pub use encoding::{Encoding, Segments};
pub use memory::{GuestPages, RunBytes};
pub use number::{PAGE_SIZE, PageNumber, PageRun};
pub use set::PageSet;
pub use sink::{Landing, PageSink, SinkError, StageEnd};
pub(crate) use sink::{check_digest, receive_hashed};
pub use stream::{PageStream, Sent};
