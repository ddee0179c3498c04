//! A guest's balloon, as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[cfg(feature = "kvm")]
use engine::pages::PAGE_SIZE;

/// Memory that the guest has given up. It reads as zeros, is not backed by the host, and no migration sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalloonReport {
    /// How much the guest was asked to have in its balloon, in bytes.
    pub target_bytes: u64,
    /// How much the guest says is in it, in bytes. It takes its time, gives no more than it can spare, and takes pages
    /// back by itself before it runs out of memory.
    pub actual_bytes: u64,
    /// Whether the guest has a driver for it that works. Without one nothing happens.
    pub has_driver: bool,
}

#[cfg(feature = "kvm")]
impl BalloonReport {
    pub(super) fn of(port: &vmm::BalloonPort) -> BalloonReport {
        let [target_bytes, actual_bytes] =
            [port.target_pages(), port.actual_pages()].map(|pages| u64::from(pages) * PAGE_SIZE as u64);
        BalloonReport { target_bytes, actual_bytes, has_driver: port.has_driver() }
    }
}
