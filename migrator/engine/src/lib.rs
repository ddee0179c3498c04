//! Ferry's migration engine.
//!
//! Start with [`strategy`], one short file each; [`vm`] is the seam to a machine; [`source`] and
//! [`destination`] are the two sides, [`protocol`] what they say to each other, [`pages`] and
//! [`transport`] how memory travels, and [`timeline`] where downtime comes from. Everything is
//! tested on the machine of [`sim`], without KVM.
//!
//! It knows no command line, no HTTP and no KVM: Cargo would not let it.

mod counterparts;
pub mod destination;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod options;
pub mod pages;
pub mod progress;
pub mod protocol;
mod ready;
pub mod report;
pub mod sim;
pub mod source;
pub mod strategy;
pub mod timeline;
pub mod transport;
mod urgent;
pub mod vm;
