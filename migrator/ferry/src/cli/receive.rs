//! `ferry receive`

use std::{ffi::OsString, path::Path, process::ExitCode, sync::Arc, thread, time::Duration};

use anyhow::Context;
use clap::Args;

use super::{
    background::{self, Background},
    bridges,
    devices::HostDevices,
    ending,
    output::tell,
    raw_terminal, terminal, units,
};
use crate::{
    daemon::{ConsoleLog, Daemon, Receiver, Registry, receive_one, serve},
    machine::{Backing, HostShare},
};
use engine::transport::{Address, Interrupt};

/// Wait for a VM and run it here
///
/// The first line on standard output is `listening on ADDRESS`. Until a VM has come this goes by the name incoming-PORT
/// (or --name), then by the VM's own. After a failed try it waits for the next.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Receive {
    /// Where to listen: tcp://HOST:PORT (port 0: any that is free; none: 7800) or unix:///PATH
    #[arg(value_name = "ADDRESS")]
    address: Address,
    /// The name to go by, before and after [default: incoming-PORT, then the VM's own]
    #[arg(long, short)]
    name: Option<String>,
    /// What holds the VM's memory
    #[arg(long, value_enum, default_value_t)]
    backing: Backing,
    #[command(flatten)]
    devices: HostDevices,
    /// Take simulated VMs, too: those of `ferry run sim`
    #[arg(long)]
    simulated: bool,
    /// How long the source's host may acknowledge nothing before it counts as gone
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = units::peer_timeout)]
    peer_timeout: Duration,
    /// Give up after one failed try
    #[arg(long)]
    once: bool,
    /// Run in the background; prints the address and the name
    #[arg(long, short)]
    detach: bool,
    /// Leave the terminal alone
    #[arg(long)]
    no_console: bool,
    #[command(flatten)]
    background: Background,
}

const EXAMPLES: &str = "\
Examples:
  ferry receive tcp://0.0.0.0:7800
  ferry receive tcp://127.0.0.1:0 --name db --detach
  ferry receive tcp://0.0.0.0:7800 --net tap=ferry1";

impl Receive {
    /// Runs the VM that comes to its end.
    pub fn execute(self, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
        raw_terminal::never_stop_for_it();
        self.background.begin();
        let registry = Registry::open()?;
        if !self.background.is_in_background() {
            self.warn_of_bridges();
        }
        if self.detach && !self.background.is_in_background() {
            return background::start(&registry, arguments);
        }
        let listening = self.address.listen();
        let (mut acceptor, address) =
            listening.with_context(|| format!("cannot listen at {}: choose another port?", self.address))?;
        acceptor.set_peer_timeout(self.peer_timeout);
        let claim = match &self.name {
            Some(name) => registry.claim(name)?,
            None => registry.claim_numbered(&default_name(&address))?,
        };
        let name = claim.name().to_owned();
        let daemon = Daemon::awaiting(&name, address.to_string(), Arc::<ConsoleLog>::default());
        background::say(&format!("listening on {address}"));
        if self.address.is_everywhere() {
            background::say("and on this host's other addresses");
        }
        self.background.ready(&registry, &name);

        let interrupt = Interrupt::default();
        let (attached_sender, attached) = std::sync::mpsc::channel();
        let mut user = User {
            daemon: daemon.clone(),
            registry,
            attach: (!self.no_console && !self.background.is_in_background()).then_some(attached_sender),
        };
        let receiver = {
            let (daemon, interrupt) = (daemon.clone(), interrupt.clone());
            let share = HostShare {
                backing: self.backing,
                // Without KVM there are no others.
                simulated: self.simulated || cfg!(not(feature = "kvm")),
                taps: self.devices.taps,
                disks: self.devices.disks,
            };
            move || receive_one(&daemon, acceptor, &share, self.once, &interrupt, &mut user)
        };
        thread::Builder::new().name("receive".to_owned()).spawn(receiver).context("start a thread")?;
        let end = serve(&daemon, claim, self.name.is_none())?;
        interrupt.raise();
        drop(attached.try_recv());
        Ok(ending::tell(&daemon.name(), &end))
    }

    /// Says beforehand which gateways the guest may not reach after its move.
    fn warn_of_bridges(&self) {
        for tap in &self.devices.taps {
            if let Some(bridge) = bridges::without_fixed_mac(Path::new(bridges::INTERFACES), tap) {
                tell!(
                    "ferry: {tap} is in the bridge {bridge}, whose MAC changes with its ports. If it is the guest's gateway, \
                     the guest cannot reach it for up to a minute after the move; {}",
                    bridges::mend(&bridge)
                );
            }
        }
    }
}

/// `incoming-7800`
fn default_name(address: &Address) -> String {
    match address {
        Address::Tcp(host_and_port) => {
            format!("incoming-{}", host_and_port.rsplit(':').next().unwrap_or_default())
        }
        Address::Unix(_) => "incoming".to_owned(),
    }
}

/// The user at this terminal.
struct User {
    daemon: Arc<Daemon>,
    registry: Registry,
    attach: Option<std::sync::mpsc::Sender<terminal::Attached>>,
}

impl Receiver for User {
    fn is_here(&mut self, name: &str, paused: bool) {
        background::say(&match paused {
            false => format!("{name} runs here"),
            true => format!("{name} is here, paused: `ferry resume {name}` runs it"),
        });
        let Some(attach) = &self.attach else { return };
        match terminal::attach_own(&self.registry.console(&self.daemon.name()), &self.daemon) {
            // It is dropped, and the terminal as it was, when the process ends.
            Ok(attached) => drop(attach.send(attached)),
            Err(error) => tell!("ferry: {error:#}"),
        }
    }

    fn failed(&mut self, why: &str) {
        tell!("ferry: {why}");
    }
}
