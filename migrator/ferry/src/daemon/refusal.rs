//! Why a VM's process does not do what it was asked.

use std::fmt;

use thiserror::Error;

use crate::{machine::UnavailableGuest, shown::show_count};
use engine::{pages::PAGE_SIZE, vm::VmError};

/// How many pages are to go, and how fast they do.
#[derive(Clone, Copy, Debug)]
pub struct PagesLeft {
    /// Pages that the destination has not got.
    pub pages: u64,
    /// How fast the link is, if that is known.
    pub bytes_per_second: u64,
}

impl fmt::Display for PagesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages to go", show_count(self.pages))?;
        match (self.pages * PAGE_SIZE as u64).checked_div(self.bytes_per_second) {
            Some(seconds) => write!(f, ", about {} s", seconds + 1),
            None => Ok(()),
        }
    }
}

/// Why not. Nothing has changed then.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No VM has come yet.
    #[error("{name} waits for a VM, and none has come yet")]
    NotHereYet {
        /// Its name.
        name: String,
    },
    /// A VM is on its way, and its guest runs where it comes from.
    #[error("{guest} is on its way to {name}, and still runs where it comes from: ask there")]
    OnItsWay {
        /// Its name here.
        name: String,
        /// Its name there.
        guest: String,
    },
    /// The engine still has the machine.
    #[error("the last pages of {name} are still arriving: try again when they have")]
    StillArriving {
        /// Its name.
        name: String,
    },
    /// The engine has the machine.
    #[error("{name} is being migrated: wait for the end, or call it off with `ferry cancel {name}`")]
    Migrating {
        /// Its name.
        name: String,
    },
    /// Its guest runs at the destination already, and needs pages that are here.
    #[error(
        "too late: {name} runs at {to}; {left}. This process ends when the last one is there; `ferry stop --force {name}` \
         ends it now, and takes from the guest there what it has not got"
    )]
    PastHandover {
        /// Its name.
        name: String,
        /// Where it runs.
        to: String,
        /// What it has not got.
        left: PagesLeft,
    },
    /// It runs elsewhere.
    #[error("{name} has moved to {to}")]
    Moved {
        /// Its name.
        name: String,
        /// Where it was sent.
        to: String,
    },
    /// It was paused by its user.
    #[error("{name} is paused: resume it first, with `ferry resume {name}`")]
    Paused {
        /// Its name.
        name: String,
    },
    /// Nobody here knows which side runs it.
    #[error(
        "an earlier migration broke off where this side cannot know whether the guest runs at the destination: look \
         there first. If it runs on both sides, disks and network will see two of it. `ferry resume --force` runs it \
         here nevertheless"
    )]
    InDoubt,
    /// It came without all of its memory.
    #[error(
        "{missing_pages} pages of {name} never came, and only the source has them: it cannot run, be moved or be checked \
         here. `ferry stop {name}` ends what is here. Then `ferry resume --force {name}` at the source, if it is paused \
         there, runs it as it was when it left; what it did here since is lost"
    )]
    Incomplete {
        /// Its name.
        name: String,
        /// How many pages are missing.
        missing_pages: u64,
    },
    /// There is nothing to call off.
    #[error("{name} is not being migrated: there is nothing to cancel")]
    NotMigrating {
        /// Its name.
        name: String,
    },
    /// It was run without one, or cannot have one.
    #[error("{name} has no balloon: a guest has one that was started with `ferry run --balloon`")]
    NoBalloon {
        /// Its name.
        name: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Request(String),
    /// The guest could not be asked.
    #[error(transparent)]
    Guest(#[from] UnavailableGuest),
    /// The machine could not do it.
    #[error("the machine could not do it")]
    Machine(#[source] VmError),
    /// A thread could not be started.
    #[error("start the engine's thread")]
    Thread(#[source] std::io::Error),
}
