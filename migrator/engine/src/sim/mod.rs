//! A machine and a link without hardware, for tests and for hosts without KVM.
//!
//! [`SimVm`] has real memory and a guest that proves it: it knows what it last wrote to every page,
//! takes that knowledge along as its state, and finds every page that is lost or stale. It also does
//! what real machines do at bad moments: saving a device dirties memory, loading one touches pages
//! that may be missing, the n-th save or load fails.
//!
//! [`FailingConnector`] cuts links at chosen messages. Both are driven by a seed: the guest at the
//! source moves on only when the engine looks at its memory, so that a failure can be played again.

mod guest;
mod host;
mod link;
mod machine;
mod memory;
mod missing;
mod network;
mod vm;

pub use guest::{SimGuest, SimWorkload};
pub use host::SimHost;
pub use link::{Cut, FailingConnector, Tally};
pub use vm::{Fault, KIND, SimObserver, SimVm};
