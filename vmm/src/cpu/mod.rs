//! The CPU a guest is given: what it may see of this host, and whether another host can go on being it.
//!
//! - `model`: [`CpuModel`], made from what the host's KVM supports minus what cannot move;
//! - `features`: which features a guest may have; `feature_words`: their names;
//! - `check`: a model against this host;
//! - `vcpu_leaves`: the few leaves that differ from vCPU to vCPU.

mod check;
mod feature_words;
mod features;
mod model;
pub(crate) mod vcpu_leaves;

pub(crate) use self::check::same_frequency;

pub use self::check::CpuMismatch;
pub use self::model::{CpuLeaf, CpuModel, CpuModelError};
