//! A vCPU's thread: runs the guest while it is ordered to, and hands exits to the bus.

use std::sync::{Arc, Mutex};

use kvm_bindings::KVM_EXIT_INTERNAL_ERROR;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::Vcpu;
use super::kick::ImmediateExit;
use super::parking::{Order, Parking};
use crate::devices::{Bus, Outcome};
use crate::event::{Event, EventSender, FailReason, Registers};

/// What the thread of one vCPU works with.
pub(super) struct VcpuThread {
    pub(super) index: u8,
    pub(super) vcpu: Arc<Mutex<Vcpu>>,
    pub(super) parking: Arc<Parking>,
    pub(super) bus: Arc<Bus>,
    pub(super) events: EventSender,
}

/// What to do after an exit.
enum Next {
    /// Enter the guest again.
    Enter,
    /// Complete the exit, then leave the guest and tell the owner, if there is anything to tell.
    Stop(Option<Event>),
}

impl VcpuThread {
    /// The thread's life: wait for an order, obey, and again.
    pub(super) fn run(self) {
        self.rehearse();
        let mut answered = 0;
        loop {
            match self.parking.wait_for_order(&mut answered) {
                Order::Run => {
                    // Locked while in the guest, free while parked: that is what lets the owner read the state.
                    let mut vcpu = self.vcpu.lock().expect("a vCPU's thread does not panic");
                    self.run_guest(&mut vcpu);
                }
                Order::Park => {}
                Order::Leave => return,
            }
        }
    }

    /// Calls KVM_RUN without entering the guest: what KVM makes the first time it is called for a machine or a thread,
    /// a thread of its own among it, is there when the guest is to run.
    fn rehearse(&self) {
        let mut vcpu = self.vcpu.lock().expect("a vCPU's thread does not panic");
        let Vcpu { fd, immediate_exit, .. } = &mut *vcpu;
        immediate_exit.set(true);
        // Interrupted is what it is told to be; any other error comes again when the guest is to run.
        let _ = fd.run();
        // An order that was given meanwhile stands, and is looked for next.
        immediate_exit.set(false);
    }

    /// Runs the guest until an order says otherwise or an exit ends it. On return no exit is outstanding, but after a
    /// failure: the only way out leads through a KVM_RUN that was told to turn back at once, and that completes them.
    fn run_guest(&self, vcpu: &mut Vcpu) {
        let Vcpu { fd, immediate_exit, .. } = vcpu;
        let mut last_words = None;
        let mut stopping = false;
        loop {
            let next = match fd.run() {
                // The machine ends: what a device would be told may have been read where a page never came.
                Ok(_) if self.parking.order() == Order::Leave => break,
                Ok(exit) => self.handle(exit),
                Err(error) => match error.errno() {
                    libc::EINTR => {
                        // First clear, then look: an order given after the look sets it again.
                        immediate_exit.set(false);
                        if stopping || self.parking.order() != Order::Run {
                            break;
                        }
                        Next::Enter
                    }
                    // A vCPU that waited for its start-up message got it.
                    libc::EAGAIN => Next::Enter,
                    errno => {
                        let reason = FailReason::Run(std::io::Error::from_raw_os_error(errno));
                        last_words = Some(Event::Failed { vcpu: self.index, reason, registers: None });
                        break;
                    }
                },
            };
            match next {
                Next::Enter => {}
                Next::Stop(Some(event @ (Event::Failed { .. } | Event::Shutdown { .. }))) => {
                    // Nothing to complete, and the guest cannot be entered again.
                    last_words = Some(event);
                    break;
                }
                Next::Stop(event) => {
                    last_words = event;
                    stopping = true;
                    immediate_exit.set(true);
                }
            }
        }
        if let Some(event) = last_words {
            self.tell(event, fd, immediate_exit);
        }
    }

    fn handle(&self, exit: VcpuExit<'_>) -> Next {
        match exit {
            VcpuExit::IoOut(port, data) => self.after(self.bus.port_write(port, data)),
            VcpuExit::IoIn(port, data) => {
                self.bus.port_read(port, data);
                Next::Enter
            }
            VcpuExit::MmioRead(address, data) => {
                self.bus.mmio_read(address, data);
                Next::Enter
            }
            VcpuExit::MmioWrite(address, data) => self.after(self.bus.mmio_write(address, data)),
            // With the interrupt chip in the kernel these come only around signals.
            VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => Next::Enter,
            VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => {
                Next::Stop(Some(Event::Shutdown { vcpu: self.index }))
            }
            VcpuExit::FailEntry(hardware_reason, _) => self.failed(FailReason::FailEntry { hardware_reason }),
            VcpuExit::InternalError => self.failed(FailReason::InternalError { suberror: 0 }),
            VcpuExit::Unsupported(exit_reason) => self.failed(FailReason::UnknownExit { exit_reason }),
            _ => self.failed(FailReason::UnknownExit { exit_reason: u32::MAX }),
        }
    }

    fn after(&self, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Done => Next::Enter,
            Outcome::Exit(code) => Next::Stop(Some(Event::Exited { code })),
            Outcome::Reset => Next::Stop(Some(Event::ResetRequested)),
            Outcome::PowerOff => Next::Stop(Some(Event::PoweredOff)),
            Outcome::Panic => Next::Stop(Some(Event::Panicked)),
        }
    }

    fn failed(&self, reason: FailReason) -> Next {
        Next::Stop(Some(Event::Failed { vcpu: self.index, reason, registers: None }))
    }

    fn tell(&self, mut event: Event, fd: &mut VcpuFd, immediate_exit: &ImmediateExit) {
        if let Event::Failed { reason, registers, .. } = &mut event {
            immediate_exit.set(false);
            name_cause(reason, fd);
            *registers = read_registers(fd);
        }
        self.events.tell(event);
    }
}

/// Completes a reason with what only the shared page tells: KVM's suberror, the number of an exit kvm-ioctls names but
/// this machine does not expect.
fn name_cause(reason: &mut FailReason, fd: &mut VcpuFd) {
    let run = fd.get_kvm_run();
    match reason {
        FailReason::InternalError { suberror } if run.exit_reason == KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: the exit reason says which member of the union is valid.
            *suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
        }
        FailReason::UnknownExit { exit_reason } => *exit_reason = run.exit_reason,
        _ => {}
    }
}

fn read_registers(fd: &VcpuFd) -> Option<Box<Registers>> {
    Some(Box::new(Registers { general: fd.get_regs().ok()?, special: fd.get_sregs().ok()? }))
}
