//! Emulated Linux hosts with real KVM, on any machine: no `/dev/kvm`, no root, no network of this machine.
//!
//! QEMU's software CPU emulates SVM, so Debian's own kernel boots as a host, loads `kvm-amd`, and runs guests under it.
//! A bed is some such hosts and the Ethernet switch between them:
//!
//! ```text
//!   this process      host 1 (QEMU)               host 2 (QEMU)             client (QEMU)
//!   ┌─────────┐       ┌────────────────────┐      ┌───────────────────┐     ┌───────────┐
//!   │  Bed    │ agent │ ferry ─► kvm-amd   │      │ ferry ─► kvm-amd  │     │ curl …    │
//!   │         │◄─────►│   guest ─ tap ┐    │      │                   │     │           │
//!   │         │       │      eth0 ─ br0    │      │ eth0 ─ br0        │     │ eth0      │
//!   │ Switch  │       └───┬────────────────┘      └──┬────────────────┘     └──┬────────┘
//!   └────┬────┘           │                          │                         │
//!        └────────────────┴──────────────────────────┴─────────────────────────┘
//! ```
//!
//! A host's way out is made worse by its own kernel (netem, see [`Link`]); links are cut by the switch. Commands go
//! through a virtio serial port, so that they work whatever happens to the network.

mod agent;
mod bed;
mod host;
mod image;
mod link;
mod process;
mod switch;
mod tsc;
pub mod walk;
pub mod wire;

pub use agent::{CommandError, Output, Running};
pub use bed::{Bed, BedConfig, BedError, qemu_version};
pub use host::{FileError, Host, HostConfig};
pub use link::{Link, LinkError};

const QEMU: &str = "qemu-system-x86_64";

/// The first QEMU by which a guest's XSETBV was seen to reach the host's KVM: in 7.2 it does not, and guests lose what
/// they enabled. Those between were not tried.
pub const QEMU_WITH_XSETBV: (u32, u32) = (10, 0);
