//! The strategies. Each is one short file: what is sent while the guest still runs, and then one
//! *switchover* with two page sets, what must be there before the guest starts and what is missing.
//!
//! | strategy | before the switchover | now | missing |
//! |---|---|---|---|
//! | `stop_and_copy` | nothing | everything | nothing |
//! | `pre_copy` | rounds while the guest runs | the last dirty pages | nothing |
//! | `post_copy` | nothing | nothing | everything |
//! | `hybrid` | a few rounds | what the downtime limit allows of the last dirty pages | the others |
//!
//! To add one, write such a file, name it in [`Strategy`], and nothing else changes: what is missing
//! after a switchover is pushed and served whoever left it out.

pub mod convergence;
mod hybrid;
mod post_copy;
mod pre_copy;
mod stop_and_copy;

use serde::{Deserialize, Serialize};

use crate::source::{Handover, MigrateError, Migration};

/// Which way to move a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Pause, send everything, start.
    StopAndCopy,
    /// Send while the guest runs, again what it wrote meanwhile; pause for the last pages.
    PreCopy,
    /// Start at the destination at once; pages follow, those that are touched first.
    PostCopy,
    /// A few rounds while the guest runs; what the downtime limit allows of the last dirty pages, and the others follow.
    Hybrid,
}

/// What a strategy needs ready before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Pages come before the guest starts.
    pub pages_before_start: bool,
    /// Pages may be missing when the guest starts.
    pub missing_pages: bool,
}

impl Strategy {
    /// All of them, in the order in which a course introduces them.
    pub const ALL: [Strategy; 4] =
        [Strategy::StopAndCopy, Strategy::PreCopy, Strategy::PostCopy, Strategy::Hybrid];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::StopAndCopy => "stop-and-copy",
            Strategy::PreCopy => "pre-copy",
            Strategy::PostCopy => "post-copy",
            Strategy::Hybrid => "hybrid",
        }
    }

    /// What must be ready for it.
    pub fn needs(self) -> Needs {
        Needs {
            pages_before_start: self != Strategy::PostCopy,
            missing_pages: matches!(self, Strategy::PostCopy | Strategy::Hybrid),
        }
    }

    pub(crate) fn run(self, migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
        match self {
            Strategy::StopAndCopy => stop_and_copy::run(migration),
            Strategy::PreCopy => pre_copy::run(migration),
            Strategy::PostCopy => post_copy::run(migration),
            Strategy::Hybrid => hybrid::run(migration),
        }
    }
}

/// A name that is no strategy's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no strategy: choose stop-and-copy, pre-copy, post-copy or hybrid")]
pub struct UnknownStrategy(String);

impl std::str::FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Strategy, UnknownStrategy> {
        Strategy::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
