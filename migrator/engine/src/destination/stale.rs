//! Pages that came before the switchover, and are missing at the start all the same: the guest wrote them again.
//!
//! What memory holds for them is a stale copy. A stale copy that counts as present is a lost page: nobody would wait for
//! the page, and the one that comes would be dropped. So those pages, and no others, are emptied before they are waited
//! for.

use std::sync::Arc;

use super::ReceiveError;
use crate::{
    pages::{Digest, GuestPages, PageSet, SinkError},
    protocol::{Offer, StateMessage},
    urgent::{Priority, at_priority},
    vm::{DestinationVm, MissingPages},
};

/// Opens what missing pages are served with. Where none comes before the start, all are missing from here on: the pause
/// need not wait for that.
pub(super) fn prepare<V: DestinationVm>(
    vm: &mut V,
    offer: &Offer,
) -> Result<Arc<dyn MissingPages>, ReceiveError<V>> {
    let prepare = || {
        let missing = vm.prepare_missing()?;
        if !offer.populate {
            missing.watch(&PageSet::all(offer.vm.page_count))?;
        }
        Ok(missing)
    };
    at_priority(Priority::Preparation, prepare).map_err(ReceiveError::Refused)
}

/// Room for the set of stale pages, made before the pause; none where no page comes before the start.
pub(super) struct Stale(Option<PageSet>);

impl Stale {
    pub fn room_for(offer: &Offer) -> Stale {
        Stale((offer.may_miss_pages && offer.populate).then(|| PageSet::all(offer.vm.page_count)))
    }

    /// Empties the pages that `message` names as missing, or that come along with it, and takes them out of the digest of
    /// what has landed. No page is received and no guest runs meanwhile.
    pub fn empty<V>(
        &mut self,
        message: &StateMessage,
        pages: &dyn GuestPages,
        landed: &mut Option<Digest>,
        missing: &dyn MissingPages,
    ) -> Result<(), ReceiveError<V>> {
        let Some(stale) = &mut self.0 else { return Ok(()) };
        message.missing.put_into(stale).ok_or(ReceiveError::MissingSet)?;
        for &page in &message.along.pages {
            if page >= stale.page_count() {
                return Err(ReceiveError::Pages(SinkError::BadPageAlong { page }));
            }
            stale.insert(page);
        }
        if stale.is_empty() {
            return Ok(());
        }
        if let Some(digest) = landed {
            // SAFETY: the guest has not started, and the receiver has come to the end of its stage.
            stale.runs().for_each(|run| digest.remove_any(run.first, unsafe { pages.bytes(run).frozen() }));
        }
        missing.watch(stale).map_err(|error| ReceiveError::Pages(SinkError::Install(error)))
    }
}
