//! One move by QEMU, from two fresh processes to two ended ones: what [`crate::rig`] does with Ferry's.

use std::{
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use ferry::machine::tsc_now;
use serde_json::Value;
use telemetry::Snapshot;

use self::sides::Sides;
use super::{
    figures,
    guest::{self, GuestView},
    progress::Progress,
    qemu::Qemu,
    settings::Setting,
};
use crate::{
    gaps::{self, Window},
    handover::Handover,
    host::{CpuTimes, Load, WarmMemory},
    plan::Step,
    probe::{MigrationWindow, now_ns},
    results::{Request, Run, RunOutcome},
    rig::{AT_WORK, Client, Rig},
};

mod follow;
mod sides;

/// Moves a guest once, with the network, the client and the limit that Ferry has in `rig`; returns the client's
/// requests. Into `run` goes what is known, also if not all of it could be measured.
///
/// # Errors
/// If the run did not come to its end; the reason belongs into its `error`.
pub fn measure(
    rig: &Rig<'_>,
    qemu: &Qemu,
    setting: Setting,
    step: &Step,
    memory: &mut WarmMemory,
    run: &mut Run,
) -> Result<Vec<Request>> {
    let before = Load::look();
    let mut sides = Sides::start(rig, qemu, setting, step, memory)?;
    sides.prepare(rig, setting)?;
    thread::sleep(AT_WORK);
    memory.take_back_rest()?;
    let client = rig.client_network().map(Client::start).transpose().context("start the client")?;
    if setting.is_post_copy() {
        memory.release_destination();
    }

    let began_tsc = tsc_now();
    let (times, ticks) = (CpuTimes::now(), sides.ticks());
    let began_at_us =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let began_ns = now_ns();
    sides.begin(setting)?;
    let mut progress = Progress::default();
    let handover = sides.follow(setting, &mut progress)?;
    let window =
        MigrationWindow { begin_ns: began_ns, switchover_end_ns: handover.seen_ns, end_ns: now_ns() };
    let during = times.until(CpuTimes::now(), sides.ticks().saturating_sub(ticks));
    let load = before.max(during);
    run.record_load(load);

    let answer = sides.source.qmp.execute("query-migrate", Value::Null);
    let answer = answer.map_err(|error| sides.source.explain(error)).context("ask QEMU how it went")?;
    figures::record(run, &answer);
    // Before the guest checks its memory, which takes it a while.
    let requests = client.map(|client| client.finish(&window, run)).unwrap_or_default();
    if let Some(outcome) = progress.ended {
        run.outcome = outcome;
        let words = answer["error-desc"].as_str().unwrap_or("it does not say why");
        bail!("QEMU's migration ended as {}: {words}", answer["status"].as_str().unwrap_or("failed"));
    }
    run.outcome = RunOutcome::Completed;
    run.total_us = progress.since_us(began_at_us);
    ask_the_guest(&sides.destination.guest, began_tsc, &progress, handover, run)?;
    Ok(requests)
}

/// What the guest saw of the move, and what it finds in its memory after it.
fn ask_the_guest(
    view: &GuestView,
    began_tsc: u64,
    progress: &Progress,
    handover: Handover,
    run: &mut Run,
) -> Result<()> {
    let guest = view.look()?.context("the guest says nothing at the destination")?;
    let Handover { at_source, first: mut gaps, .. } = handover;
    gaps.extend(guest::gaps(&guest));
    let stood_still_us = progress.stood_still_us();
    let window = Window { begin_tsc: began_tsc, end_tsc: tsc_now(), at_source, stood_still_us };
    run.record_guest(gaps::seen(&gaps, &window));
    let checked = view.check().context("have the guest check its memory")?;
    run.record_check(checked.errors());
    if checked.errors() > 0 {
        run.error = Some(complaint(&checked));
    }
    Ok(())
}

/// The guest's findings after a move, in a sentence.
fn complaint(checked: &Snapshot) -> String {
    let named = guest::named_errors(checked);
    let first = named.first().map(String::as_str).unwrap_or_default();
    format!("the guest found {} errors after QEMU had moved it, such as: {first}", checked.errors())
}

#[cfg(test)]
mod tests;
