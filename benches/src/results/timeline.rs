//! `timeline.csv`: every request of every client, and the phases of the migrations between them.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    plan::Step,
    probe::{MigrationWindow, Recording, write_csv},
};

/// Which run, what, when from the command to migrate on, and how long the answer took, in microseconds. A request that
/// was not answered has no response, and neither have the phases: `switchover-end` and `migration-end`.
const HEADER: &str = "strategy,pass,memory_bytes,dirty_rate_pages_per_second,kind,at_us,response_us";

/// Where the clients' records go as they come.
#[derive(Debug)]
pub struct TimelineFile {
    path: PathBuf,
}

impl TimelineFile {
    /// A new one beside the report, with nothing in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path) -> Result<TimelineFile> {
        let path = folder.join("timeline.csv");
        let written = fs::create_dir_all(folder)
            .and_then(|()| File::create(&path))
            .and_then(|mut file| writeln!(file, "{HEADER}"));
        written
            .with_context(|| format!("write {}", path.display()))
            .context("choose another folder with --out")?;
        Ok(TimelineFile { path })
    }

    /// Adds what a client saw of a run.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn add(&self, step: &Step, window: &MigrationWindow, recording: &Recording) -> Result<()> {
        let workload = &step.arm.workload;
        let prefix = format!(
            "{},{},{},{}",
            step.arm.strategy, step.pass, workload.memory_bytes, workload.dirty_rate_pages_per_second
        );
        let since = |ns: u64| ns.saturating_sub(window.begin_ns) / 1_000;
        let write = || {
            let mut file = BufWriter::new(OpenOptions::new().append(true).open(&self.path)?);
            writeln!(file, "{prefix},switchover-end,{},", since(window.switchover_end_ns))?;
            writeln!(file, "{prefix},migration-end,{},", since(window.end_ns))?;
            write_csv(recording, window.begin_ns, &prefix, &mut file)?;
            file.flush()
        };
        write().with_context(|| format!("add to {}", self.path.display()))
    }
}
