//! Starting, pausing, resuming, and the end.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::{Phase, Vm};
use crate::devices::virtio::Devices;
use crate::devices::virtio::block::DiskError;
use crate::vcpu::VcpuHandle;
use crate::vcpu::state::WATCHDOG_GAP;

/// How long a pause waits for a vCPU. A healthy one needs microseconds; one that waits for a missing page needs that page.
const PAUSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of a machine waits for its vCPUs before it takes away what they wait for.
const LEAVE_PATIENCE: Duration = Duration::from_millis(100);
/// How long it waits after that; nothing is left to wait for, so this only bounds the unthinkable.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// The machine could not be paused, and runs on.
#[derive(Debug, Error)]
pub enum PauseError {
    /// A vCPU does not come out of the guest.
    #[error(
        "vCPU {vcpu} does not leave the guest: it most likely waits for a missing page that nobody installs"
    )]
    Stuck {
        /// Which.
        vcpu: usize,
    },
    /// A device's thread does not come to rest.
    #[error(
        "virtio device {device} does not come to rest: it most likely waits for a missing page that nobody installs"
    )]
    DeviceStuck {
        /// Which, in the order of the configuration.
        device: usize,
    },
    /// A disk that was let go of cannot be had again.
    #[error("take back the guest's disks")]
    Disk(#[from] DiskError),
    /// There is no guest to pause or resume.
    #[error("the machine was never started")]
    NotStarted,
}

impl Vm {
    /// Lets the guest run from its present state: for the first time, or after a restore or a pause. Does nothing when it
    /// runs already.
    pub fn start(&mut self) {
        if self.phase == Phase::Running {
            return;
        }
        let first = self.phase != Phase::Paused;
        self.phase = Phase::Running;
        // vCPUs first: it is their standing still that costs. A device that is not open yet keeps what it is told.
        self.vcpus.iter().for_each(VcpuHandle::run);
        self.devices.open(first);
        self.serial.take_input();
        self.devices.consoles().iter().for_each(|console| console.take_input());
    }

    /// Stops all vCPUs between two instructions, with no exit outstanding, and drains the devices: each frame or request
    /// that they took from a queue is done, and they touch nothing until the machine runs again. On failure the machine runs on. Does nothing
    /// when it is paused already.
    pub fn pause(&mut self) -> Result<(), PauseError> {
        match self.phase {
            Phase::New | Phase::Ready => return Err(PauseError::NotStarted),
            Phase::Paused => return Ok(()),
            Phase::Running => {}
        }
        // All are asked before any is waited for: the machine stops when the slowest has.
        self.vcpus.iter().for_each(VcpuHandle::ask_to_park);
        if let Some(vcpu) = self.vcpus.iter().position(|vcpu| !vcpu.wait_parked(PAUSE_PATIENCE)) {
            self.vcpus.iter().for_each(VcpuHandle::run);
            return Err(PauseError::Stuck { vcpu });
        }
        // vCPUs first, then devices: nobody gives them work any more. The serial port does its at once, on the vCPU's
        // thread; virtio devices finish what they took from their queues.
        if let Err(device) = self.devices.close(PAUSE_PATIENCE) {
            self.vcpus.iter().for_each(VcpuHandle::run);
            return Err(PauseError::DeviceStuck { device });
        }
        self.phase = Phase::Paused;
        self.paused_at = Some(Instant::now());
        Ok(())
    }

    /// Lets a guest run on that was paused, here or before its state was restored here, with its disks taken (back).
    /// Does nothing when it runs already.
    pub fn resume(&mut self) -> Result<(), PauseError> {
        match self.phase {
            Phase::New => return Err(PauseError::NotStarted),
            Phase::Running => return Ok(()),
            Phase::Ready | Phase::Paused => {}
        }
        self.devices.take_disks()?;
        // How long one stood still elsewhere is not known here.
        if self.paused_at.take().is_none_or(|since| since.elapsed() >= WATCHDOG_GAP) {
            self.vcpus.iter().for_each(VcpuHandle::tell_of_pause);
        }
        self.start();
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.vcpus.iter().for_each(VcpuHandle::ask_to_leave);
        let mut stuck: Vec<_> = self
            .vcpus
            .iter_mut()
            .filter_map(|vcpu| (!vcpu.wait_left(LEAVE_PATIENCE)).then_some(vcpu))
            .collect();
        let left = devices_left(&mut self.devices, LEAVE_PATIENCE);
        if stuck.is_empty() && left {
            return;
        }
        // Only now, and not before the kick: a vCPU that is freed from waiting sees zeros where its page is missing, and
        // must find the order to leave before it computes with them.
        if let Err(error) = self.memory.abandon_missing() {
            tracing::error!(%error, "could not free threads that wait for missing pages");
        }
        for vcpu in &mut stuck {
            if !vcpu.wait_left(LAST_PATIENCE) {
                tracing::error!("a vCPU's thread does not end; it is left behind");
            }
        }
        if !devices_left(&mut self.devices, LAST_PATIENCE) {
            tracing::error!("a virtio device's thread does not end; it is left behind");
        }
    }
}

/// Asks the devices' threads to end, for at most `patience`. Returns whether they have.
fn devices_left(devices: &mut Devices, patience: Duration) -> bool {
    /// Between two looks at threads that end.
    const LOOK_EVERY: Duration = Duration::from_micros(200);
    let mut waited = Duration::ZERO;
    while !devices.leave() {
        if waited >= patience {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    true
}
