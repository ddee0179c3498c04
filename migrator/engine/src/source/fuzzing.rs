//! The source's ways in, for fuzz targets.

use std::{cell::OnceCell, sync::Arc};

use super::{
    MigrateError,
    open::Links,
    push::{Answers, Shared},
};
use crate::{
    options::Options,
    pages::{GuestPages, PageSet, PageStream, Sent},
    protocol::{MigrationId, Role},
    transport::{Connector, Interrupt, Wire},
};

/// Answers page requests for `missing` until the link ends.
pub(crate) fn answer_requests(
    wire: impl Wire + 'static,
    pages: &Arc<dyn GuestPages>,
    missing: PageSet,
) -> Sent {
    Answers::new(PageStream::new(Box::new(wire), None), pages.clone(), Arc::default())
        .give(&Shared::new(&missing))
}

/// Opens a link.
pub(crate) fn open_link(
    connector: &dyn Connector,
    migration: MigrationId,
    role: Role,
) -> Result<Box<dyn Wire>, MigrateError> {
    let default = Options::default();
    let (patience, peer_timeout) = (default.answer_timeout, default.peer_timeout);
    let (interrupt, agreed) = (&Interrupt::default(), OnceCell::new());
    Links { connector, interrupt, migration, patience, peer_timeout, agreed }.open(role)
}
