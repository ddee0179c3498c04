//! `results.json`: what was measured, where, and by which command.

mod client;
mod file;
mod phases;
mod run;
mod timeline;

pub use client::{Brownout, ClientReport, Percentiles, ResponseTimes, UdpReport};
pub use file::{ResultsFile, read, write_whole};
pub use phases::{Phase, Phases};
pub use run::{ENGINE, PageFaults, Run, RunOutcome};
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
    /// One object a run, in the order in which they were made.
    pub runs: Vec<Run>,
}

impl Results {
    /// None yet.
    pub fn new(host: HostFacts, plan: Plan) -> Results {
        Results { schema: SCHEMA.to_owned(), complete: false, host, plan: Some(plan), runs: Vec::new() }
    }

    /// Whether any run went wrong: a figure is missing, or memory was.
    pub fn any_failed(&self) -> bool {
        self.runs.iter().any(Run::is_failure)
    }
}
