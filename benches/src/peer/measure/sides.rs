//! Both sides of one move: started, told how, and given the word.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ferry::machine::pulse_command_line;
use guest_images::pulse::IMAGE;
use serde_json::{Value, json};

use crate::{
    host::{self, WarmMemory},
    interrupt,
    network::{self, DESTINATION_ADDRESS, GUEST_ADDRESS, GUEST_PREFIX},
    peer::{
        qemu::{Machine, Post, Qemu, Side},
        settings::Setting,
    },
    plan::{Step, Workload},
    rig::{self, Rig},
};

/// Source and destination. Both processes end when this is dropped.
pub(super) struct Sides {
    pub(super) source: Side,
    pub(super) destination: Side,
}

impl Sides {
    /// The source first: while its guest boots and fills memory, the destination's memory is still held warm.
    pub(super) fn start(
        rig: &Rig<'_>,
        qemu: &Qemu,
        setting: Setting,
        step: &Step,
        memory: &mut WarmMemory,
    ) -> Result<Sides> {
        let workload = &step.arm.workload;
        let image = image(rig.runtime)?;
        // Word for word what Ferry's guest is told.
        let mut words = rig::pulse_words(workload, u64::from(step.pass));
        let has_network = rig.client_network().is_some();
        if has_network {
            words.push(format!("net={GUEST_ADDRESS}/{GUEST_PREFIX}"));
        }
        let command_line = pulse_command_line(&words, workload.vcpus).context("the guest's command line")?;
        let machine = Machine {
            workload,
            image: &image,
            command_line: &command_line,
            preallocate: true,
            incoming: false,
            has_network,
            vhost: host::has_vhost_net(),
        };
        memory.release_source();
        let place = |side| rig.network.map(|network| (network, side));
        let post = Post { name: "source", runtime: rig.runtime, place: place(network::Side::Source) };
        let mut source = Side::start(qemu, &machine, post).context("start the source")?;
        wait_until_ready(&mut source, workload)?;

        let preallocate = !setting.is_post_copy();
        if preallocate {
            memory.release_destination();
        }
        let machine = Machine { preallocate, incoming: true, ..machine };
        let post =
            Post { name: "destination", runtime: rig.runtime, place: place(network::Side::Destination) };
        let destination = Side::start(qemu, &machine, post).context("start the destination")?;
        Ok(Sides { source, destination })
    }

    /// CPU time of all that is ours.
    pub(super) fn ticks(&self) -> u64 {
        self.source.process.ticks() + self.destination.process.ticks() + host::process_ticks(process::id())
    }

    /// Tells both how, has the destination listen, and the source know where.
    pub(super) fn prepare(&mut self, rig: &Rig<'_>, setting: Setting) -> Result<()> {
        for side in [&mut self.source, &mut self.destination] {
            for (command, arguments) in [
                ("migrate-set-capabilities", setting.capability_arguments()),
                ("migrate-set-parameters", setting.parameter_arguments(rig.downtime_limit)),
            ] {
                side.qmp.execute(command, arguments).map_err(|error| side.explain(error))?;
            }
        }
        let destination = &mut self.destination;
        let at = rig.network.map_or(Ipv4Addr::LOCALHOST, |_| DESTINATION_ADDRESS);
        let listening = destination.qmp.execute("migrate-incoming", json!({ "uri": format!("tcp:{at}:0") }));
        listening.map_err(|error| destination.explain(error)).context("have the destination listen")?;
        Ok(())
    }

    /// Where the destination listens, as it says.
    fn address(&mut self) -> Result<String> {
        let destination = &mut self.destination;
        let answer = destination.qmp.execute("query-migrate", Value::Null);
        let answer = answer.map_err(|error| destination.explain(error)).context("ask for the port")?;
        socket_address(&answer).context("QEMU's destination does not say where it listens")
    }

    /// Gives the word.
    pub(super) fn begin(&mut self, setting: Setting) -> Result<()> {
        let uri = self.address()?;
        let mut commands = vec![("migrate", json!({ "uri": uri }))];
        if setting.pauses_first() {
            commands.insert(0, ("stop", Value::Null));
        }
        if setting.is_post_copy() {
            commands.push(("migrate-start-postcopy", Value::Null));
        }
        let source = &mut self.source;
        for (command, arguments) in commands {
            source.qmp.execute(command, arguments).map_err(|error| source.explain(error))?;
        }
        Ok(())
    }
}

fn wait_until_ready(source: &mut Side, workload: &Workload) -> Result<()> {
    let patience = rig::ready_patience(workload);
    let deadline = Instant::now() + patience;
    loop {
        interrupt::check()?;
        source.process.check().context("the source")?;
        if source.guest.look()?.is_some_and(|guest| guest.is_ready()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("QEMU's guest was not ready after {} s", patience.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The built-in guest as a file, once for all runs.
fn image(runtime: &Path) -> Result<PathBuf> {
    let path = runtime.join("pulse");
    if !path.exists() {
        fs::write(&path, IMAGE).with_context(|| format!("write the guest's image to {}", path.display()))?;
    }
    Ok(path)
}

/// From the destination's `query-migrate`.
pub(super) fn socket_address(answer: &Value) -> Option<String> {
    let address = answer["socket-address"].as_array()?.first()?;
    let (host, port) = (address["host"].as_str()?, address["port"].as_str()?);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("tcp:{host}:{port}"))
}
