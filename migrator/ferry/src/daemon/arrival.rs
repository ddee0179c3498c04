//! Taking a VM in.

use std::{sync::Arc, thread, time::Duration};

use super::{Coming, Daemon, End, Facts, Place, Standing};
use crate::machine::{Handles, Host, HostShare, Machine};
use engine::{
    destination::{EndNotice, ReceiveError, Reception, receive_at},
    pages::PAGE_SIZE,
    report::in_words,
    transport::{Acceptor, Interrupt},
    vm::VmDescription,
};

/// As long as a file's name may be.
const MAX_IMAGE_CHARACTERS: usize = 255;

/// What a receiving process tells its user.
pub trait Receiver: Send {
    /// The guest is here, and runs unless it is `paused`; its last pages may still be coming.
    fn is_here(&mut self, name: &str, paused: bool);
    /// A try failed; unless the VM is here all the same, the next is waited for.
    fn failed(&mut self, why: &str);
}

/// Waits for one VM, until one has come or the interrupt is raised; failed tries are told and the next waited for,
/// unless `once`. For a thread of its own.
pub fn receive_one(
    daemon: &Arc<Daemon>,
    mut acceptor: Box<dyn Acceptor>,
    share: &HostShare,
    once: bool,
    interrupt: &Interrupt,
    user: &mut dyn Receiver,
) {
    Reception::open(&mut *acceptor, interrupt, |reception| {
        receive_until_one_came(daemon, reception, share, once, interrupt, user);
    });
}

fn receive_until_one_came(
    daemon: &Arc<Daemon>,
    reception: &Reception<'_>,
    share: &HostShare,
    once: bool,
    interrupt: &Interrupt,
    user: &mut dyn Receiver,
) {
    loop {
        let result = daemon.receive(reception, share, interrupt, user);
        let words = match result {
            Ok(()) => return,
            Err(_) if interrupt.is_raised() => return daemon.finish(End::Stopped),
            Err(words) => words,
        };
        user.failed(&words);
        if once {
            return daemon.finish(End::NothingCame);
        }
        // An error that comes back at once must not take all of a CPU.
        thread::sleep(Duration::from_millis(50));
    }
}

impl Daemon {
    fn receive(
        self: &Arc<Self>,
        reception: &Reception<'_>,
        share: &HostShare,
        interrupt: &Interrupt,
        user: &mut dyn Receiver,
    ) -> Result<(), String> {
        let mut host = Host::new(share.clone(), |vm: &VmDescription, handles: Handles| {
            self.made(vm, handles, Coming::of(vm, reception.landed()));
        });
        let started = |vm: &VmDescription, end: EndNotice| {
            self.update(|inner| {
                inner.place = Place::Arriving { standing: Standing::on_arrival(vm), end };
                inner.listening = None;
                inner.wanted_name = Some(vm.name.clone());
            });
            user.is_here(&vm.name, vm.paused);
        };
        match receive_at(reception, &mut host, interrupt, started) {
            Ok(arrival) => {
                self.here(arrival.vm, Standing::on_arrival(&arrival.description));
                Ok(())
            }
            Err(ReceiveError::Ended { .. }) => {
                self.ended_on_arrival();
                Ok(())
            }
            Err(error @ ReceiveError::Interrupted { .. }) => {
                user.failed(&format!(
                    "{}. It is kept here as \"interrupted\" and cannot go on: if the source still has the guest, \
                     `ferry stop` it here and `ferry resume --force` it there",
                    in_words_of(&error)
                ));
                if let ReceiveError::Interrupted { vm, missing_pages, .. } = error {
                    self.here(*vm, Standing::Incomplete { missing_pages });
                }
                Ok(())
            }
            Err(error) => {
                self.update(|inner| {
                    inner.place = Place::Awaited { coming: None };
                    inner.handles = None;
                    inner.facts = Facts::default();
                });
                // What came along is of a guest that did not.
                self.console.forget();
                Err(in_words_of(&error))
            }
        }
    }

    /// A machine was made for a VM that wants to come.
    fn made(self: &Arc<Self>, vm: &VmDescription, handles: Handles, coming: Coming) {
        handles.set_console_output(Box::new(self.console.writer()));
        handles.keep_console(self.console.clone());
        self.update(|inner| {
            inner.place = Place::Awaited { coming: Some(coming) };
            inner.handles = Some(handles.clone());
            inner.facts = Facts {
                kind: vm.kind.clone(),
                memory_bytes: vm.page_count * PAGE_SIZE as u64,
                vcpus: vm.vcpus,
                image: vm.image.as_deref().and_then(shown),
                ..Facts::default()
            };
        });
        self.watch_guest(handles);
    }

    fn here(&self, machine: Machine, standing: Standing) {
        self.update(|inner| inner.place = Place::Here { machine, standing });
    }
}

impl Standing {
    /// A guest arrives as it stood where it came from.
    fn on_arrival(vm: &VmDescription) -> Standing {
        if vm.paused { Standing::Paused } else { Standing::Running }
    }
}

/// What a peer says was booted, as it may be shown: it goes to terminals.
fn shown(image: &str) -> Option<String> {
    let image: String = image.chars().filter(|c| !c.is_control()).take(MAX_IMAGE_CHARACTERS).collect();
    (!image.is_empty()).then_some(image)
}

/// With all its causes; the error itself holds a machine, so it is no `dyn Error`.
fn in_words_of(error: &ReceiveError<Machine>) -> String {
    use std::error::Error;
    let mut words = error.to_string();
    if let Some(cause) = error.source() {
        words.push_str(": ");
        words.push_str(&in_words(cause));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{ConsoleLog, Refusal};
    use engine::{
        sim::{SimVm, SimWorkload},
        vm::SourceVm,
    };

    /// Issue 12, entry 7: a look at memory maps pages, which would then count as the guest's.
    #[test]
    fn entry_7_the_memory_of_a_vm_that_has_not_arrived_is_nobodys() {
        let daemon = Daemon::awaiting("b", "tcp://here:1".to_owned(), Arc::<ConsoleLog>::default());
        let workload = SimWorkload { seed: 1, working_set: 8, rate: None, zero_one_in: 0, network: false };
        // As a rehearsal leaves it: with a guest in it.
        let machine = Machine::Simulated(Box::new(SimVm::boot("vm", 64, workload).unwrap()));
        let vm = machine.describe();
        daemon.made(&vm, machine.handles(), Coming::of(&vm, &Arc::default()));
        assert!(!daemon.guest(0).available);
        assert!(matches!(daemon.check(), Err(Refusal::OnItsWay { .. })));
        assert!(matches!(daemon.balloon(), Err(Refusal::OnItsWay { .. })));
        assert!(matches!(daemon.set_balloon(0), Err(Refusal::OnItsWay { .. })));
        daemon.update(|inner| {
            inner.place = Place::Arriving { standing: Standing::on_arrival(&vm), end: EndNotice::default() };
        });
        assert!(daemon.guest(0).available, "it is looked at once it runs here");
        assert_eq!(daemon.check().unwrap().errors, 0);
    }

    #[test]
    fn what_a_peer_says_was_booted_does_nothing_to_a_terminal() {
        assert_eq!(shown("vmlinuz-6.1").as_deref(), Some("vmlinuz-6.1"));
        assert_eq!(shown("\x1b[2Jpul\nse\u{9b}1m").as_deref(), Some("[2Jpulse1m"));
        assert_eq!(shown("\r\n"), None);
        assert_eq!(shown(&"ü".repeat(300)).unwrap().chars().count(), MAX_IMAGE_CHARACTERS);
    }
}
