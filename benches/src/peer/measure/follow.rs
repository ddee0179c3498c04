//! Listening to both sides while the guest moves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::sides::Sides;
use crate::{
    handover::Handover,
    interrupt,
    peer::{guest, progress::Progress, qemu::Side, qmp::wait_for_any, settings::Setting},
    probe::now_ns,
    rig::MIGRATION_TIMEOUT,
};

/// How long both sides may take to say that they are done once the guest runs.
const LAST_WORDS: Duration = Duration::from_secs(10);

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
                let gaps = |side: &Side| side.guest.look().ok().flatten().map(|guest| guest::gaps(&guest));
                handover = Handover::read(now_ns(), gaps(&self.source), || gaps(&self.destination));
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
}
