//! Pre-copy: send memory while the guest runs, then again and again what it wrote meanwhile; when
//! little enough is left, pause it for the rest.
//!
//! Round 0 sends every page. Each later round sends the pages dirtied during the one before. While
//! the guest writes more slowly than the link carries, rounds shrink, and the last dirty pages cross
//! during a short pause. A guest that writes faster never converges: [`super::convergence`] sees it and the
//! migration is given up, with the guest running on where it is.

use super::convergence::{Decision, check_fixed, decide};
use crate::source::{Budget, Handover, MigrateError, Migration};

pub(super) fn run(migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
    let (fixed, limit) = (migration.fixed, migration.options.downtime_limit);
    check_fixed(fixed.total(), fixed.travel(), limit).map_err(MigrateError::OutOfReach)?;
    migration.start_dirty_log()?;
    let mut dirty = migration.take_dirty()?;
    loop {
        migration.send_round(&dirty)?;
        dirty = migration.take_dirty()?;
        match decide(migration.rounds(), dirty.len(), &migration.limits()) {
            Decision::NextRound => {}
            Decision::Switchover => return migration.switchover(dirty, Budget::ALL),
            Decision::GiveUp(reason) => return Err(MigrateError::OutOfReach(reason)),
        }
    }
}
