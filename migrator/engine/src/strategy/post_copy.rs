//! Post-copy: start the guest at the destination at once, with its state but none of its memory.
//!
//! A page the guest touches before it is there is a page fault: it is requested from the source and
//! the vCPU waits for it. Meanwhile the source pushes all pages, so that the waiting ends. Each page
//! crosses once, and the downtime does not depend on memory's size or on how fast the guest writes;
//! the price is a guest that runs slower until its working set has arrived, and that has its memory
//! on two hosts until all has.

use crate::{
    pages::PageSet,
    source::{Budget, Handover, MigrateError, Migration},
};

pub(super) fn run(migration: &mut Migration<'_>) -> Result<Handover, MigrateError> {
    migration.switchover(PageSet::all(migration.page_count), Budget::NONE)
}
