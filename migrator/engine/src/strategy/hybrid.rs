//! Hybrid: a few rounds as in pre-copy, then a switchover that does not wait for the rest, as in post-copy.
//!
//! Most of memory is at the destination before the guest is paused. Of the last dirty pages as many are sent during the
//! pause as the downtime limit allows; the others are missing when the guest starts, and are pushed and served. So a guest
//! that writes faster than the link carries keeps to its limit, and only pages that it has just written can make it wait.

use super::convergence::{Decision, decide, pages_within_limit};
use crate::source::{Budget, Handover, MigrateError, Migration};

/// More rounds than this leave hardly fewer pages where the guest does not converge.
const ROUNDS: usize = 3;

pub(super) fn run(migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
    migration.start_dirty_log()?;
    let mut dirty = migration.take_dirty()?;
    loop {
        migration.send_round(&dirty)?;
        dirty = migration.take_dirty()?;
        let (rounds, limits) = (migration.rounds(), migration.limits());
        match decide(rounds, dirty.len(), &limits) {
            Decision::NextRound if rounds.len() < ROUNDS => {}
            // Even a limit that is out of reach: what does not fit follows.
            _ => {
                let now = Budget::pages(pages_within_limit(rounds, &limits));
                return migration.switchover(dirty, now);
            }
        }
    }
}
