//! The machine.
//!
//! ```text
//!            boot / restore         start, resume             pause
//!   new ──────────────────────► ready ──────────► running ──────────► paused
//!                               │  ▲                  ▲                  │
//!                               └──┘                  └───── resume ─────┘
//!                              restore
//! ```
//! State is saved when ready or paused. Everything that can exist before a guest does is made by [`Vm::new`]: that takes
//! milliseconds, and starting a ready machine takes microseconds.

mod create;
#[cfg(test)]
mod device_tests;
mod restore;
mod run;
mod save;

use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::VmFd;

use crate::acpi;
use crate::boot::{self, BootError};
use crate::config::VmConfig;
use crate::cpu::CpuModel;
use crate::devices::Console;
use crate::devices::serial::SerialPort;
use crate::devices::virtio::Devices;
use crate::devices::virtio::balloon::BalloonPort;
use crate::devices::virtio::block::DiskError;
use crate::devices::virtio::net::NetPort;
use crate::event::Events;
use crate::memory::GuestMemory;
use crate::memory::dirty_log::{DirtyLog, DirtyLogError};
use crate::state::MachineShape;
use crate::vcpu::VcpuHandle;

pub use self::create::CreateError;
pub use self::restore::{RestoreError, Shape};
pub use self::run::PauseError;
pub use self::save::SaveError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No guest yet.
    New,
    /// A guest that has not run here.
    Ready,
    Running,
    Paused,
}

/// A virtual machine. Not shared: its owner has it alone, and hands out [`memory`](Self::memory),
/// [`console`](Self::console) and [`events`](Self::events) as handles of their own.
///
/// Dropping it ends its threads, even those that wait for a missing page.
#[derive(Debug)]
pub struct Vm {
    // Ended first, by `Drop`: vCPU threads use all below.
    vcpus: Vec<VcpuHandle>,
    // With them.
    devices: Devices,
    phase: Phase,
    /// Since when it is paused.
    paused_at: Option<Instant>,
    config: VmConfig,
    cpu: CpuModel,
    shape: MachineShape,
    /// A guest here may have a TSC of another frequency than the host's.
    tsc_can_scale: bool,
    /// This host's KVM tells wall time together with its clock (KVM_CLOCK_REALTIME).
    clock_knows_wall_time: bool,
    serial: Arc<SerialPort>,
    events: Events,
    dirty_log: DirtyLog,
    /// Size of the last saved state: room for the next.
    state_bytes: usize,
    /// What the vCPUs touch first, as of the last save.
    first_pages: Vec<u64>,
    vm: Arc<VmFd>,
    // After `vm`: KVM maps it.
    memory: Arc<GuestMemory>,
}

impl Vm {
    /// What the machine is made of.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// The CPU it was given.
    pub fn cpu(&self) -> &CpuModel {
        &self.cpu
    }

    /// Its memory; the handle may outlive the machine.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Its events. All handles share one queue.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// Its console.
    pub fn console(&self) -> Console {
        Console::new(Arc::clone(&self.serial))
    }

    /// Handles on its network cards, in the order of its configuration.
    pub fn network(&self) -> Vec<NetPort> {
        self.devices.ports()
    }

    /// Its virtio consoles, in the order of its configuration; the serial port's is [`console`](Self::console).
    pub fn virtio_consoles(&self) -> Vec<Console> {
        self.devices.consoles().into_iter().map(Console::of_virtio).collect()
    }

    /// Handles on its balloons, in the order of its configuration.
    pub fn balloons(&self) -> Vec<BalloonPort> {
        self.devices.balloons()
    }

    /// Takes the disks for this machine: opens them anew, checks their sizes and locks them, so that no other machine, here
    /// or on another host, can. [`boot`](Self::boot) and [`resume`](Self::resume) do it by themselves; after a restore do
    /// it before [`start`](Self::start), which cannot tell of a failure: a guest without its disks waits for them. All or
    /// none are taken; what this machine has it keeps.
    pub fn take_disks(&mut self) -> Result<(), DiskError> {
        self.devices.take_disks()
    }

    /// Writes back what the guest has written to its disks so far, while it goes on: done shortly before a pause, it leaves
    /// [`release_disks`](Self::release_disks) little to do.
    pub fn sync_disks(&self) -> Result<(), DiskError> {
        self.devices.sync_disks()
    }

    /// Lets go of the disks, after all that the guest wrote is on them: for a machine that is paused and given up, so that
    /// another can take them. Does nothing to a running one.
    pub fn release_disks(&mut self) -> Result<(), DiskError> {
        match self.phase {
            Phase::Running => Ok(()),
            Phase::New | Phase::Ready | Phase::Paused => self.devices.release_disks(),
        }
    }

    /// Loads `kernel` and readies vCPU 0 to enter it; the others wait to be started by it. It is a bzImage (`vmlinuz`) or
    /// an ELF file (`vmlinux`, or any with a PVH entry point); its contents decide by which protocol it is entered.
    /// `initrd` is handed over as the initial RAM disk, which PVH calls the first module. The kernel finds processors,
    /// devices and the power switch by ACPI; one that is not Linux is told on its command line, too, where the devices are
    /// (` virtio_mmio.device=4K@0xd0000000:16` for the first).
    pub fn boot(
        &mut self,
        kernel: &[u8],
        command_line: &str,
        initrd: Option<&[u8]>,
    ) -> Result<(), BootError> {
        if self.phase != Phase::New {
            return Err(BootError::NotNew);
        }
        self.devices.take_disks()?;
        let devices = self.config.devices.len() as u8;
        let machine = acpi::Machine { vcpus: self.config.vcpus, virtio_devices: devices };
        let entry = boot::load(&self.memory, kernel, command_line, initrd, &machine)?;
        let first = self.vcpus.first().expect("a machine has a vCPU");
        first.enter_at(|regs, sregs| entry.set_registers(regs, sregs))?;
        self.vcpus.iter().try_for_each(VcpuHandle::set_boot_msrs)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Starts the dirty log. From here every page counts as dirty once, also when it was on already.
    pub fn start_dirty_log(&mut self) -> Result<(), DirtyLogError> {
        self.dirty_log.start(&self.vm, &self.memory)
    }

    /// Stops the dirty log.
    pub fn stop_dirty_log(&mut self) -> Result<(), DirtyLogError> {
        self.dirty_log.stop(&self.vm, &self.memory)
    }

    /// Takes the dirty log: sets in `into` (one bit a page, [`GuestMemory::bitmap_words`] words) the pages that guest or
    /// VMM wrote since the last harvest, and clears them. Returns how many those are. Bits set before stay set. Copy
    /// pages after this, never before.
    pub fn harvest_dirty(&mut self, into: &mut [u64]) -> Result<u64, DirtyLogError> {
        self.dirty_log.harvest(&self.vm, &self.memory, into)
    }
}
