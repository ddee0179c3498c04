//! Stop-and-copy: pause the guest, send all of its memory, start it at the destination.
//!
//! The simplest strategy and the yardstick of the others. Each page crosses once, so total time and
//! bytes are the least possible; but the guest stands still for all of it, so the downtime is the
//! size of memory divided by the bandwidth.

use crate::{
    pages::PageSet,
    source::{Budget, Handover, MigrateError, Migration},
};

pub(super) fn run(migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
    migration.switchover(PageSet::all(migration.page_count), Budget::ALL)
}
