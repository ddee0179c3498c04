//! A VM's control socket, as far as the harness needs it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use engine::{options::Verify, report::Report};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::http;
use crate::gaps::Gap;

/// For everything that has nothing to wait for.
const PROMPT: Duration = Duration::from_secs(10);
/// For a migration, and a check of all memory.
const LONG: Duration = Duration::from_secs(300);

/// Speaks to one VM.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// What the guest says about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Guest {
    /// It says anything at all.
    pub available: bool,
    /// It has booted and filled its memory.
    pub ready: bool,
    /// Frequency of its time-stamp counter.
    pub tsc_khz: u64,
    /// Pages it has written.
    pub pages_written: u64,
    /// Time-stamp counter at the moment of asking.
    pub tsc_now: u64,
    /// Steps that took long.
    pub gaps: Vec<Gap>,
    /// How many steps took 2^i to 2^(i+1) ticks, since the guest began to count.
    pub gap_histogram: Vec<u64>,
}

/// What a check of all its memory found.
#[derive(Debug, Deserialize)]
pub struct Check {
    /// Pages that were not as they had been left.
    pub errors: u64,
    /// Which, and how.
    #[serde(default)]
    pub named_errors: Vec<String>,
}

/// What to ask of a migration.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Where to.
    pub address: &'a str,
    /// How.
    pub strategy: &'a str,
    /// What pre-copy may plan for.
    pub downtime_limit: Duration,
    /// How long it may take until the handover.
    pub timeout: Duration,
}

impl Control {
    /// Of the VM of this name in a runtime folder.
    pub fn new(runtime: &Path, name: &str) -> Control {
        Control { socket: runtime.join("ferry").join(format!("{name}.sock")) }
    }

    /// What the process takes beside the guest's memory, if it says so.
    ///
    /// # Errors
    /// As all here: if the VM does not answer, or says no.
    pub fn overhead_bytes(&self) -> Result<Option<u64>> {
        Ok(self.get::<Value>("/v1/vm")?["overhead_bytes"].as_u64())
    }

    /// What the guest says.
    pub fn guest(&self) -> Result<Guest> {
        self.get("/v1/vm/guest")
    }

    /// Has the guest look at all its memory.
    pub fn check(&self) -> Result<Check> {
        decode(http::request(&self.socket, "POST", "/v1/vm/guest/check", None, LONG)?)
    }

    /// Begins to move it.
    pub fn begin_migration(&self, order: &Order<'_>) -> Result<()> {
        let body = json!({
            "address": order.address,
            "strategy": order.strategy,
            "downtime_limit_us": order.downtime_limit.as_micros() as u64,
            "timeout_us": order.timeout.as_micros() as u64,
            "verify": Verify::AfterStart,
        });
        http::request(&self.socket, "POST", "/v1/migration", Some(&body), PROMPT).map(drop)
    }

    /// Waits for the end of the migration. A source whose guest has moved then ends.
    pub fn end_of_migration(&self) -> Result<Report> {
        let mut answer = http::request(&self.socket, "GET", "/v1/migration?wait=true", None, LONG)?;
        decode(answer["report"].take()).context("the report of the migration")
    }

    /// Ends the VM.
    pub fn stop(&self) -> Result<()> {
        http::request(&self.socket, "PUT", "/v1/vm/stop", None, PROMPT).map(drop)
    }

    fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        decode(http::request(&self.socket, "GET", target, None, PROMPT)?)
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("the VM's answer is not what this harness knows")
}
