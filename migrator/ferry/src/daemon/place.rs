//! Where the machine is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Refusal, refusal::PagesLeft};
use crate::machine::Machine;
use engine::{
    destination::EndNotice,
    progress::{Phase, Progress},
    transport::Interrupt,
    vm::VmDescription,
};

/// Where the machine is, and whose.
pub enum Place {
    /// No VM has come yet.
    Awaited {
        /// The one that is on its way.
        coming: Option<Coming>,
    },
    /// The guest is here, and the engine has the machine until its last pages have come.
    Arriving {
        /// Whether it runs, or stands still as its user wanted it.
        standing: Standing,
        /// Where its end is said before its last page has come.
        end: EndNotice,
    },
    /// Here, and nobody else has it.
    Here {
        /// It.
        machine: Machine,
        /// Whether it runs, and if not, why.
        standing: Standing,
    },
    /// The engine has it, to move it away.
    Migrating {
        /// Calls the migration off.
        interrupt: Interrupt,
        /// How far it is.
        progress: Arc<Progress>,
        /// Where to.
        to: String,
    },
    /// It runs elsewhere.
    Moved {
        /// Where it was sent.
        to: String,
    },
}

/// A VM that is on its way, whose guest runs at its source.
pub struct Coming {
    /// Its name there.
    pub name: String,
    /// Its memory.
    pub page_count: u64,
    /// Pages that have come, counted each time they come.
    pub landed: Arc<AtomicU64>,
}

/// What a receiver takes in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Receiving {
    /// The VM's name at its source, where its guest runs still.
    pub name: String,
    /// How much of its memory has come, in hundredths. Pages that the guest never used do not come, and pages that it
    /// writes to come again.
    pub percent: u8,
}

impl Coming {
    pub(super) fn of(vm: &VmDescription, landed: &Arc<AtomicU64>) -> Coming {
        Coming { name: vm.name.clone(), page_count: vm.page_count, landed: landed.clone() }
    }

    fn show(&self) -> Receiving {
        let percent = self.landed.load(Ordering::Relaxed).saturating_mul(100) / self.page_count.max(1);
        Receiving { name: self.name.clone(), percent: percent.min(100) as u8 }
    }
}

/// Whether a guest runs, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Running,
    /// Its user paused it.
    Paused,
    /// Paused here, and it may run at the destination.
    Unknown,
    /// It was started at the destination, which may lack pages that only this side has.
    Interrupted,
    /// It came without so many of its pages, and they will not come. It is never run, moved or checked again.
    Incomplete {
        /// How many pages are missing.
        missing_pages: u64,
    },
}

impl Standing {
    /// Why a guest that stands so is not let run, moved or asked; nothing if it may be. `force` is the user's word that it
    /// runs nowhere else.
    pub(super) fn refusal(self, name: &str, force: bool) -> Option<Refusal> {
        match self {
            Standing::Running | Standing::Paused => None,
            Standing::Unknown | Standing::Interrupted if force => None,
            Standing::Unknown | Standing::Interrupted => Some(Refusal::InDoubt),
            Standing::Incomplete { missing_pages } => {
                Some(Refusal::Incomplete { name: name.to_owned(), missing_pages })
            }
        }
    }
}

/// What is known of a VM without asking its guest.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `kvm` or `simulated`; empty before a VM has come.
    pub kind: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u8,
    /// What was booted; of a VM that came, what its source says.
    pub image: Option<String>,
    /// The kernel's command line, if it was booted here.
    pub command_line: Option<String>,
    /// The guest has not yet said that it is ready.
    pub is_booting: bool,
}

/// A VM, as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The name it goes by on this host.
    pub name: String,
    /// `kvm` or `simulated`; empty before a VM has come.
    pub kind: String,
    /// `booting`, `running`, `paused`, `migrating`, `receiving`, `moved`, `unknown`, `interrupted` or `stopped`. `ferry ps`
    /// lists a VM whose process does not answer as `silent`.
    pub status: String,
    /// What is on its way here, while it is.
    #[serde(default)]
    pub receiving: Option<Receiving>,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u8,
    /// The process that holds it.
    pub pid: u32,
    /// What was booted, if that is known.
    pub image: Option<String>,
    /// The kernel's command line, if it was booted here.
    pub command_line: Option<String>,
    /// Where it waits for a VM, while it does.
    pub listening: Option<String>,
    /// When the process was started (RFC 3339).
    pub started_at: String,
    /// What the process has resident beside guest memory, in bytes.
    pub overhead_bytes: Option<u64>,
}

impl Status {
    /// Of a VM whose process does not answer: only its name is known, and who has it.
    pub fn silent(name: &str, pid: u32) -> Status {
        Status {
            name: name.to_owned(),
            status: "silent".to_owned(),
            pid,
            kind: String::new(),
            receiving: None,
            memory_bytes: 0,
            vcpus: 0,
            image: None,
            command_line: None,
            listening: None,
            started_at: String::new(),
            overhead_bytes: None,
        }
    }
}

impl Place {
    /// What is on its way here.
    pub(super) fn receiving(&self) -> Option<Receiving> {
        match self {
            Place::Awaited { coming } => coming.as_ref().map(Coming::show),
            _ => None,
        }
    }

    /// The status's name.
    pub(super) fn name(&self, is_booting: bool) -> String {
        let name = match self {
            Place::Awaited { .. } => "receiving",
            Place::Here { standing: Standing::Running, .. } if is_booting => "booting",
            Place::Arriving { standing, .. } | Place::Here { standing, .. } => match standing {
                Standing::Running => "running",
                Standing::Paused => "paused",
                Standing::Unknown => "unknown",
                Standing::Interrupted | Standing::Incomplete { .. } => "interrupted",
            },
            Place::Migrating { .. } => "migrating",
            Place::Moved { .. } => "moved",
        };
        name.to_owned()
    }

    /// Why nothing can be done with the machine there.
    pub(super) fn refusal(&self, name: &str) -> Refusal {
        let name = name.to_owned();
        match self {
            Place::Awaited { coming: None } => Refusal::NotHereYet { name },
            Place::Awaited { coming: Some(coming) } => Refusal::OnItsWay { name, guest: coming.name.clone() },
            Place::Arriving { .. } => Refusal::StillArriving { name },
            Place::Moved { to } => Refusal::Moved { name, to: to.clone() },
            Place::Migrating { .. } => self.past_handover(&name).unwrap_or(Refusal::Migrating { name }),
            Place::Here { .. } => Refusal::Migrating { name },
        }
    }

    /// Whether the engine has it, to move it away.
    pub(super) fn is_migrating(&self) -> bool {
        matches!(self, Place::Migrating { .. })
    }

    /// Where the guest was sent, if it runs there.
    pub(super) fn departed_to(&self) -> Option<&str> {
        match self {
            Place::Moved { to } => Some(to),
            Place::Migrating { progress, to, .. } if is_past_handover(progress.snapshot().phase) => Some(to),
            _ => None,
        }
    }

    /// Whether what is typed may be given to the machine: none that is still to get its state, is gone, or never runs.
    pub(super) fn takes_typing(&self) -> bool {
        match self {
            Place::Arriving { .. } | Place::Migrating { .. } => true,
            Place::Here { standing, .. } => !matches!(standing, Standing::Incomplete { .. }),
            Place::Awaited { .. } | Place::Moved { .. } => false,
        }
    }

    /// Why a migration can no longer be called off, if the guest runs at the destination already.
    pub(super) fn past_handover(&self, name: &str) -> Option<Refusal> {
        let Place::Migrating { progress, to, .. } = self else { return None };
        let now = progress.snapshot();
        is_past_handover(now.phase).then(|| Refusal::PastHandover {
            name: name.to_owned(),
            to: to.clone(),
            left: PagesLeft { pages: now.pages_left, bytes_per_second: now.bytes_per_second },
        })
    }
}

fn is_past_handover(phase: Phase) -> bool {
    matches!(phase, Phase::Push | Phase::Verify)
}
