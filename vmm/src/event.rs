//! What a machine tells its owner without being asked.

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_sregs};

/// Something that ended the run of one vCPU. The others go on until the owner pauses the machine or drops it.
#[derive(Debug)]
pub enum Event {
    /// The guest wrote `code` to the exit port: its work is done.
    Exited {
        /// What it wrote.
        code: u8,
    },
    /// The guest asked for a reset, by ACPI or through the keyboard controller.
    ResetRequested,
    /// The guest turned the machine off.
    PoweredOff,
    /// The guest's kernel told that it panicked.
    Panicked,
    /// A triple fault, or a shutdown asked of KVM.
    Shutdown {
        /// The vCPU.
        vcpu: u8,
    },
    /// KVM cannot go on with a vCPU.
    Failed {
        /// The vCPU.
        vcpu: u8,
        /// Why.
        reason: FailReason,
        /// Its registers, if they could be read.
        registers: Option<Box<Registers>>,
    },
}

/// Why KVM cannot go on with a vCPU.
#[derive(Debug)]
pub enum FailReason {
    /// KVM_EXIT_INTERNAL_ERROR, most often an instruction its emulator does not know (suberror 1).
    InternalError {
        /// KVM_INTERNAL_ERROR_* of linux/kvm.h.
        suberror: u32,
    },
    /// KVM_EXIT_FAIL_ENTRY: the CPU refused the guest's state.
    FailEntry {
        /// The CPU's reason.
        hardware_reason: u64,
    },
    /// An exit this machine does not know.
    UnknownExit {
        /// KVM_EXIT_* of linux/kvm.h.
        exit_reason: u32,
    },
    /// KVM_RUN itself failed.
    Run(io::Error),
}

/// A vCPU's registers when it failed.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// General registers.
    pub general: kvm_regs,
    /// Segments and control registers.
    pub special: kvm_sregs,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Exited { code } => write!(f, "the guest exited with code {code}"),
            Event::ResetRequested => write!(f, "the guest asked for a reset"),
            Event::PoweredOff => write!(f, "the guest powered off"),
            Event::Panicked => write!(f, "the guest's kernel panicked"),
            Event::Shutdown { vcpu } => write!(f, "vCPU {vcpu} shut down (triple fault)"),
            Event::Failed { vcpu, reason, registers } => {
                write!(f, "vCPU {vcpu} cannot go on: {reason}")?;
                registers.as_ref().map_or(Ok(()), |registers| write!(f, "; {registers}"))
            }
        }
    }
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailReason::InternalError { suberror: 1 } => {
                write!(f, "an instruction KVM cannot emulate")
            }
            FailReason::InternalError { suberror } => {
                write!(f, "internal error of KVM, suberror {suberror}")
            }
            FailReason::FailEntry { hardware_reason } => {
                write!(f, "entry refused, hardware reason {hardware_reason:#x}")
            }
            FailReason::UnknownExit { exit_reason } => {
                write!(f, "unknown exit reason {exit_reason}")
            }
            FailReason::Run(error) => write!(f, "KVM_RUN failed: {error}"),
        }
    }
}

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (general, special) = (&self.general, &self.special);
        write!(
            f,
            "rip {:#x} rsp {:#x} rflags {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} cs {:#x} \
             cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
            general.rip,
            general.rsp,
            general.rflags,
            general.rax,
            general.rbx,
            general.rcx,
            general.rdx,
            general.rsi,
            general.rdi,
            special.cs.selector,
            special.cr0,
            special.cr2,
            special.cr3,
            special.cr4,
            special.efer,
        )
    }
}

/// The events of one machine, in order; cloned handles share them. Ends when the machine is dropped.
#[derive(Clone, Debug)]
pub struct Events {
    receiver: Arc<Mutex<Receiver<Event>>>,
    has_ended: Arc<AtomicBool>,
}

/// A vCPU's end of [`Events`].
#[derive(Clone, Debug)]
pub(crate) struct EventSender {
    sender: Sender<Event>,
    has_ended: Arc<AtomicBool>,
}

impl EventSender {
    pub(crate) fn tell(&self, event: Event) {
        self.has_ended.store(true, Ordering::Release);
        // An owner that no longer listens needs no telling.
        self.sender.send(event).ok();
    }
}

impl Events {
    pub(crate) fn channel() -> (EventSender, Events) {
        let (sender, receiver) = std::sync::mpsc::channel();
        let has_ended = Arc::<AtomicBool>::default();
        let events = Events { receiver: Arc::new(Mutex::new(receiver)), has_ended: has_ended.clone() };
        (EventSender { sender, has_ended }, events)
    }

    /// Whether there was an event, read or not: the guest, or one of its vCPUs, has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Waits for the next event; `None` when the machine is gone.
    pub fn wait(&self) -> Option<Event> {
        self.lock().recv().ok()
    }

    /// Waits at most `patience`; `None` when there was no event, or the machine is gone.
    pub fn wait_for(&self, patience: Duration) -> Option<Event> {
        self.lock().recv_timeout(patience).ok()
    }

    /// The next event, if there is one already.
    pub fn poll(&self) -> Option<Event> {
        self.lock().try_recv().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Receiver<Event>> {
        self.receiver.lock().expect("receiving does not panic")
    }
}
