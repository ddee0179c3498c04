//! What a process keeps of a machine while the engine has it: each handle works whoever has borrowed the machine.

use std::{io::Write, sync::Arc};

use super::{BalloonReport, CheckReport, Footprint, GuestReport, Machine, UnavailableGuest, telemetry};
use engine::{
    pages::GuestPages,
    sim::SimObserver,
    vm::{ConsoleHistory, KeptConsole, SourceVm},
};

/// Handles on a machine and the guest in it.
#[derive(Clone)]
pub struct Handles {
    footprint: Footprint,
    page_count: u64,
    console: KeptConsole,
    guest: Guest,
}

#[derive(Clone)]
enum Guest {
    #[cfg(feature = "kvm")]
    Kvm {
        memory: Arc<vmm::GuestMemory>,
        console: super::console::GuestConsole,
        events: vmm::Events,
        balloon: Option<vmm::BalloonPort>,
    },
    Simulated(SimObserver),
}

/// How a guest ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What the process is to exit with.
    pub exit_code: u8,
    /// What happened, in words.
    pub words: String,
}

impl Machine {
    /// Handles that outlive any borrow of the machine.
    pub fn handles(&self) -> Handles {
        let pages: Arc<dyn GuestPages> = SourceVm::pages(self);
        let guest = match self {
            #[cfg(feature = "kvm")]
            Machine::Kvm(vm) => Guest::Kvm {
                memory: vm.machine().memory().clone(),
                console: super::console::GuestConsole::of(vm.machine()),
                events: vm.machine().events(),
                balloon: vm.machine().balloons().into_iter().next(),
            },
            Machine::Simulated(vm) => Guest::Simulated(vm.observer()),
        };
        let console = match self {
            #[cfg(feature = "kvm")]
            Machine::Kvm(vm) => vm.kept_console().clone(),
            Machine::Simulated(vm) => vm.kept_console().clone(),
        };
        Handles { footprint: Footprint::of(&*pages), page_count: pages.page_count(), console, guest }
    }
}

impl Handles {
    /// The guest's memory, in pages.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Where guest memory lies in this process.
    pub fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    /// Sends what the guest writes to its console to `sink`, which must not block.
    pub fn set_console_output(&self, sink: Box<dyn Write + Send>) {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { console, .. } => console.set_output(sink),
            Guest::Simulated(guest) => guest.set_console_output(sink),
        }
    }

    /// What the guest writes to its console is kept there, and goes along when it is moved.
    pub fn keep_console(&self, history: Arc<dyn ConsoleHistory>) {
        self.console.keep(history);
    }

    /// Types into the guest's console. Returns how many bytes were taken: none that would not be part of a state that was
    /// saved meanwhile.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { console, .. } => console.write(bytes),
            Guest::Simulated(guest) => guest.type_in(bytes),
        }
    }

    /// The guest's balloon; `None` if it has none.
    pub fn balloon(&self) -> Option<BalloonReport> {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { balloon, .. } => balloon.as_ref().map(BalloonReport::of),
            Guest::Simulated(_) => None,
        }
    }

    /// Asks the guest to have so many pages in its balloon, no more than it has. `None` if there is no balloon.
    #[cfg_attr(not(feature = "kvm"), allow(unused_variables))]
    pub fn set_balloon(&self, pages: u32) -> Option<BalloonReport> {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { balloon, .. } => balloon.as_ref()?.set_target_pages(pages),
            Guest::Simulated(_) => {}
        }
        self.balloon()
    }

    /// Waits until the guest ends by itself; `None` once the machine is gone. A simulated guest never ends.
    pub fn wait_for_ending(&self) -> Option<Ending> {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { events, .. } => events.wait().map(|event| ending(&event)),
            Guest::Simulated(_) => None,
        }
    }

    /// What the guest says of itself. `since_tsc` leaves out gaps that ended before. May wait for a missing page.
    ///
    /// # Errors
    /// If the guest says nothing that Ferry understands.
    pub fn guest_report(&self, since_tsc: u64) -> Result<GuestReport, UnavailableGuest> {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { memory, .. } => {
                telemetry::read(memory).map(|snapshot| telemetry::report(&snapshot, since_tsc))
            }
            Guest::Simulated(guest) => guest
                .guest()
                .map(|guest| telemetry::of_simulated(&guest, since_tsc))
                .ok_or(UnavailableGuest::NotStarted),
        }
    }

    /// Asks the guest to check all of its memory, and waits for what it finds. The guest must run.
    ///
    /// # Errors
    /// If it does not answer in time, or cannot be asked.
    pub fn check(&self) -> Result<CheckReport, UnavailableGuest> {
        match &self.guest {
            #[cfg(feature = "kvm")]
            Guest::Kvm { memory, .. } => telemetry::check(memory),
            Guest::Simulated(guest) => guest
                .check()
                .map(|guest| telemetry::check_of_simulated(&guest, self.page_count))
                .ok_or(UnavailableGuest::NotStarted),
        }
    }
}

#[cfg(feature = "kvm")]
fn ending(event: &vmm::Event) -> Ending {
    match event {
        vmm::Event::Exited { code } => Ending { exit_code: *code, words: event.to_string() },
        vmm::Event::PoweredOff => Ending { exit_code: 0, words: event.to_string() },
        // Not 0: a kernel that panicked asks for a reset as well, if it was told to (`panic=-1`).
        vmm::Event::ResetRequested => {
            Ending { exit_code: 3, words: "the guest asked for a reset, which ends it here".to_owned() }
        }
        vmm::Event::Panicked => Ending { exit_code: 4, words: event.to_string() },
        vmm::Event::Shutdown { .. } | vmm::Event::Failed { .. } => {
            Ending { exit_code: 1, words: event.to_string() }
        }
    }
}
