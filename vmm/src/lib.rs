//! A small KVM machine.
//!
//! | module | what it is |
//! |---|---|
//! | [`Vm`] (`vm/`) | build, start, pause, resume, save, restore |
//! | `vcpu/` | a thread per vCPU, its exits, the kick, its state and *why in that order* |
//! | [`GuestMemory`] (`memory/`) | one mapping, dense pages; dirty log = KVM's bitmap OR the VMM's own writes |
//! | [`MissingPages`] (`missing/`) | pages that come later, by userfaultfd |
//! | [`CpuModel`] (`cpu/`) | the CPU a guest is given, and whether another host can go on being it |
//! | `devices/` | the bus, the serial port with its [`Console`], the exit port; `virtio/`: network card, disk, console, random bytes, balloon |
//! | `boot/` | a kernel into memory: bzImage or ELF, by Linux's own protocol or PVH |
//! | `acpi/` | how it learns of processors, devices and the power switch |
//! | `state/` | saved state: named, versioned, length-checked, checksummed sections |
//! | [`probe`] (`host`) | what this host can do |
//!
//! Architecture invariant: this crate has never heard of migration. It names no strategy, no socket and no wire format;
//! a saved state is bytes, memory is memory, and who moves either is not its business.
//!
//! `unsafe` lives in few places: `memory/` (`mapping`, `resident`, the slots of `dirty_log`, the regions in `mod`),
//! `kvm/` (`dirty_ioctl`, `tsc_offset`), `memory/pieces`, `devices/virtio/net/tap`, `devices/virtio/block/lock`, the borrowed descriptors of `devices/virtio/worker`, `missing/` (`uffd`, `staging`, the move in `mod`) and `vcpu/` (`kick`'s shared byte, the register
//! areas of `xsave`, the exit record in `thread`). Each block says what it relies on.
//!
//! Measured on two cores with page-table virtualisation (`examples/floor.rs` under `chrt -f 5`, medians in microseconds,
//! one vCPU): pause 25, save 60 to 70, restore 100, first start to guest progress 150 to 170, pause and resume 26 to 31.
//! Four vCPUs: pause 105, save 225, restore 380.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod acpi;
mod boot;
mod config;
mod cpu;
mod devices;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod kvm;
mod memory;
mod missing;
mod room;
mod state;
mod vcpu;
mod vm;

pub use boot::{BootError, MAX_COMMAND_LINE_BYTES};
pub use config::{
    Backing, ConfigError, DeviceConfig, HUGE_PAGE_BYTES, MAX_MEMORY_BYTES, MAX_VCPUS, MIN_MEMORY_BYTES,
    VmConfig,
};
pub use cpu::{CpuLeaf, CpuMismatch, CpuModel, CpuModelError};
pub use devices::Console;
pub use devices::serial::{MAX_WAITING_INPUT_BYTES, SerialStateError};
pub use devices::virtio::MAX_DEVICES;
pub use devices::virtio::backend::{Backend, DeviceCreateError};
pub use devices::virtio::balloon::BalloonPort;
pub use devices::virtio::block::{Disk, DiskError, LockHolder, SECTOR_BYTES};
pub use devices::virtio::net::{
    InjectError, MAX_FRAME_BYTES, MAX_WAITING_BYTES, MAX_WAITING_FRAMES, MacAddress, NetCounters, NetPort,
    ParseMacError, Tap, TapError, VNET_HEADER_BYTES,
};
pub use devices::virtio::state::{DeviceStateError, FunctionStateError};
pub use event::{Event, Events, FailReason, Registers};
pub use host::{Host, KvmFacts, TransparentHugePages, probe};
pub use kvm::{CallError, KvmError};
pub use memory::{
    AccessError, AdviseError, DirtyLogError, GuestMemory, HIGH_MEMORY_START, LOW_MEMORY_END, MapError,
    PAGE_BYTES, ResidentError,
};
pub use missing::{LandingArea, MissingPages, MissingPagesError, PageFault};
pub use room::{CgroupRoom, Room};
pub use state::{DecodeError, FORMAT_VERSION, MAX_STATE_BYTES, SectionError};
pub use vcpu::VcpuCreateError;
pub use vcpu::state::VcpuRestoreError;
pub use vm::{CreateError, PauseError, RestoreError, SaveError, Shape, Vm};
