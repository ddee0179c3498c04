//! What a guest's clients wait for goes ahead of what a migration copies.

use std::sync::Arc;

use super::Network;

/// As long as this lives, a guest's frames are handled ahead of what else its host does. A migration keeps processors busy
/// beside the guest, and a client would wait for each that its frame needs.
pub(crate) struct FramesAhead(Option<Arc<dyn Network>>);

impl FramesAhead {
    /// Of a guest's network, if it has one.
    pub fn of(network: Option<Arc<dyn Network>>) -> FramesAhead {
        if let Some(network) = &network {
            network.go_ahead(true);
        }
        FramesAhead(network)
    }
}

impl Drop for FramesAhead {
    fn drop(&mut self) {
        if let Some(network) = &self.0 {
            network.go_ahead(false);
        }
    }
}
