//! The page-pattern oracle: every page says who wrote it and when, so that one lost or stale page is found and named.
//!
//! A stamped page is a [`Stamp`] (page, sequence, writer, hash) and a body derived from the stamp's hash, so every byte
//! of the page is known from four words. A page nobody wrote is all zero. A [`Writer`] remembers the sequence of its
//! last write of each page, so a *stale* page, valid in itself, is found as well.
//!
//! No part of the oracle is shared between vCPUs: each writes and checks its own slice, so a check never meets a writer.

mod checker;
mod fill;
mod memory;
mod mismatch;
mod stamp;
mod verify;
mod writer;

pub use checker::{CheckStep, Checker};
pub use fill::Fill;
pub use memory::{Memory, PageRange};
pub use mismatch::{Mismatch, MismatchKind};
pub use stamp::{FILL_WRITER, PAGE_SIZE, Page, Stamp, stamp_page};
pub use verify::{is_zero, verify_page};
pub use writer::{Content, Pattern, Writer};

#[cfg(test)]
mod tests;
