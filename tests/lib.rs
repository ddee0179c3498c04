//! What end-to-end tests share: real guests, and what must hold of them.

pub mod guest;
pub mod moves;

/// Whether KVM machines with missing pages can be made here. If not, says that `test` is skipped and
/// why, in the words that the runner counts.
pub fn can_run_guests(test: &str) -> bool {
    let host = vmm::probe();
    let missing = host.kvm.err().map(|e| e.to_string()).or(host.missing_pages.err().map(|e| e.to_string()));
    missing.inspect(|reason| println!("skipped: {test}: {reason}")).is_none()
}
