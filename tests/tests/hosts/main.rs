//! Emulated hosts with real KVM: guests move between Linux machines.

mod by_hand;
mod linux;
mod linux_guest;
mod pulse;
mod refusals;
mod walk;

use testbed::{Bed, BedConfig};

/// A bed; `None`, said in the words that the runner counts, where this machine lacks what it needs.
fn bed(test: &str, config: &BedConfig) -> Option<Bed> {
    match Bed::up(config) {
        Ok(bed) => Some(bed),
        Err(lack) if lack.is_lack() => {
            println!("skipped: {test}: {lack}");
            None
        }
        Err(error) => panic!("{test}: {}", by_hand::with_causes(&error)),
    }
}
