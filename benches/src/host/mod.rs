//! The host that everything is measured on: what it is, how busy it is, and its memory before timing.

mod facts;
mod load;
mod warm;

pub use facts::{HostFacts, Kvm, LoadAverage, has_vhost_net};
pub use load::{CpuTimes, Load, OVERLOADED_PERCENT, OVERLOADED_STOLEN_US, process_ticks};
pub use warm::{Piece, WarmMemory};

/// How the guests run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    /// Guests are simulated, for this reason.
    pub simulated: Option<String>,
    /// Missing pages cannot be served, and what to do about it.
    pub no_missing_pages: Option<String>,
}

impl Machines {
    /// What this host permits; `simulated` asks for a simulated guest anyway.
    pub fn probe(simulated: bool) -> Machines {
        if simulated {
            return Machines { simulated: Some("--simulated".to_owned()), no_missing_pages: None };
        }
        let host = vmm::probe();
        let in_words = |error: &dyn std::error::Error| engine::report::in_words(error);
        match host.kvm {
            Err(error) => Machines { simulated: Some(in_words(&error)), no_missing_pages: None },
            Ok(_) => {
                let no_missing_pages = host.missing_pages.err().map(|error| in_words(&error));
                Machines { simulated: None, no_missing_pages }
            }
        }
    }
}
