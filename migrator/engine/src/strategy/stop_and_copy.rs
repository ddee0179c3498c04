//! Stop-and-copy: pause the guest, send all of its memory, start it at the destination.
//!
//! The simplest strategy and the yardstick of the others. Each page crosses once, so total time and
//! bytes are the least possible; but the guest stands still for all of it, so the downtime is the
//! size of memory divided by the bandwidth.

use super::{Handover, Portion};
use crate::source::{MigrateError, Migration};

pub(super) fn run(migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
    migration.switchover(Portion::Everything, Portion::Nothing)
}
