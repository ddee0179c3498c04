//! `results.json`: what was measured, where, and by which command.

mod client;
mod engine;
mod file;
mod moved;
mod phases;
mod run;
mod timeline;

pub use self::engine::{Engine, PeerFigures};
pub use client::{Brownout, ClientReport, Percentiles, ResponseTimes, UdpReport};
pub use file::{ResultsFile, read, write_whole};
pub use moved::Moved;
pub use phases::{Phase, Phases};
pub use run::{PageFaults, Run, RunOutcome};
pub use timeline::{Kind, Request, TimelineFile, Timelines};

use serde::{Deserialize, Serialize};

use crate::{host::HostFacts, plan::Plan};

/// The version of the file. What another version means is not guessed.
pub const SCHEMA: &str = "ferry-bench/1";

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether all planned runs are in it; not if the harness was interrupted, or is still at work.
    pub complete: bool,
    /// Where and when.
    pub host: HostFacts,
    /// What was to be measured; nothing in files of a ferry-bench that did not say.
    #[serde(default)]
    pub plan: Option<Plan>,
    /// What was left out, and why; and what differs between the engines.
    #[serde(default)]
    pub notes: Vec<String>,
    /// One object a run, in the order in which they were made.
    pub runs: Vec<Run>,
}

impl Results {
    /// None yet.
    pub fn new(host: HostFacts, plan: Plan) -> Results {
        let (notes, runs) = (Vec::new(), Vec::new());
        Results { schema: SCHEMA.to_owned(), complete: false, host, plan: Some(plan), notes, runs }
    }

    /// Whether any run of Ferry's went wrong: a figure is missing, or memory was. What goes wrong with another engine
    /// is shown, and is no failure of the measurement.
    pub fn any_failed(&self) -> bool {
        self.runs.iter().any(|run| run.engine.is_ferry() && run.is_failure())
    }
}
