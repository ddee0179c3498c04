//! Ferry's migration engine.
//!
//! Start with [`strategy`], one short file each; [`vm`] is the seam to a machine; [`source`] and
//! [`destination`] are the two sides, [`protocol`] what they say to each other, [`pages`] and
//! [`transport`] how memory travels, and [`timeline`] where downtime comes from. Everything is
//! tested on the machine of [`sim`], without KVM.
//!
//! Around the engine: [`machine`] is either kind of machine, [`daemon`] the process that holds one, [`api`]
//! what it answers over its control socket, and [`cli`] the `ferry` command; [`host_network`] says what a host
//! permits. The engine knows none of them.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod destination;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod host_network;
#[cfg(feature = "kvm")]
pub mod kvm_vm;
pub mod machine;
pub mod options;
pub mod pages;
pub mod progress;
pub mod protocol;
mod ready;
pub mod report;
mod shown;
pub mod sim;
pub mod source;
pub mod strategy;
pub mod timeline;
pub mod transport;
mod urgent;
pub mod vm;
