//! An interrupt line of a device.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vm_superio::Trigger;

/// An edge-triggered line into the in-kernel interrupt chips. The interrupt is in them when `trigger` returns.
#[derive(Debug, Clone)]
pub(super) struct InterruptLine {
    vm: Arc<VmFd>,
    line: u32,
}

impl InterruptLine {
    pub(super) fn new(vm: Arc<VmFd>, line: u32) -> Self {
        InterruptLine { vm, line }
    }
}

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> Result<(), io::Error> {
        self.vm.set_irq_line(self.line, true)?;
        self.vm.set_irq_line(self.line, false)?;
        Ok(())
    }
}
