//! Listening to both sides while the guest moves, and reading its gaps as soon as it runs at the destination.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::sides::Sides;
use crate::{
    gaps::Gap,
    interrupt,
    peer::{guest, progress::Progress, qemu::Side, qmp::wait_for_any, settings::Setting},
    probe::now_ns,
    rig::{FIRST_STEP, MIGRATION_TIMEOUT},
};

/// How long both sides may take to say that they are done once the guest runs.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What could be read when the guest had just started at the destination.
#[derive(Default)]
pub(super) struct Handover {
    pub(super) at_source: Option<Vec<Gap>>,
    pub(super) first: Vec<Gap>,
    /// When it was heard that the guest runs there, by CLOCK_MONOTONIC.
    pub(super) seen_ns: u64,
}

impl Sides {
    /// Listens to both until it is over, and reads the guest's gaps as soon as it runs at the destination. Nothing is
    /// asked before, so that nothing of ours runs during the downtime.
    pub(super) fn follow(&mut self, setting: Setting, progress: &mut Progress) -> Result<Handover> {
        let mut handover = Handover::default();
        let mut deadline = Instant::now() + MIGRATION_TIMEOUT;
        let (mut continued, mut handed_over) = (false, false);
        while !progress.is_done() && progress.ended.is_none() {
            interrupt::check()?;
            if Instant::now() > deadline {
                bail!("QEMU was not done within {} s: {progress:?}", MIGRATION_TIMEOUT.as_secs());
            }
            self.listen(progress)?;
            // QEMU forgets a `cont` that comes while the guest is still coming.
            if setting.pauses_first() && progress.arrived && !continued {
                let destination = &mut self.destination;
                destination.qmp.execute("cont", Value::Null).map_err(|error| destination.explain(error))?;
                continued = true;
            }
            if progress.resumed_at_us.is_some() && !handed_over {
                handover = self.read_handover(now_ns());
                handed_over = true;
            }
            if progress.completed_at_us.is_some() && handed_over {
                deadline = deadline.min(Instant::now() + LAST_WORDS);
            }
        }
        Ok(handover)
    }

    fn listen(&mut self, progress: &mut Progress) -> Result<()> {
        let Sides { source, destination } = self;
        let heard = wait_for_any([&mut source.qmp, &mut destination.qmp], Duration::from_millis(100));
        while let Some(event) = source.qmp.take_event() {
            progress.source_says(&event);
        }
        while let Some(event) = destination.qmp.take_event() {
            progress.destination_says(&event);
        }
        match heard {
            Ok(()) => Ok(()),
            Err((0, error)) => Err(source.explain(error)).context("the source is gone"),
            Err((_, error)) => Err(destination.explain(error)).context("the destination is gone"),
        }
    }

    fn read_handover(&self, seen_ns: u64) -> Handover {
        let look = |side: &Side| side.guest.look().ok().flatten().map(|guest| guest::gaps(&guest));
        let at_source = look(&self.source);
        let known = at_source.as_deref().unwrap_or_default();
        let mut first: Vec<Gap> = Vec::new();
        let (deadline, mut looks_left) = (Instant::now() + FIRST_STEP, 3);
        while looks_left > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
            first.extend(look(&self.destination).unwrap_or_default());
            looks_left -= u32::from(first.iter().any(|gap| !known.contains(gap)));
        }
        Handover { at_source, first, seen_ns }
    }
}
