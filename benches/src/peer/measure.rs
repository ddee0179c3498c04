//! One move by QEMU, from two fresh processes to two ended ones: what [`crate::rig`] does with Ferry's.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use guest_images::pulse::IMAGE;
use migrator::machine::{pulse_command_line, tsc_now};
use serde_json::{Value, json};
use telemetry::Snapshot;

use super::{
    figures, guest,
    progress::Progress,
    qemu::{Machine, Post, Qemu, Side},
    qmp::wait_for_any,
    settings::Setting,
};
use crate::{
    gaps::{self, Gap, Window},
    host::{self, CpuTimes, Load, WarmMemory},
    interrupt,
    network::{self, DESTINATION_ADDRESS, GUEST_ADDRESS, GUEST_PREFIX},
    plan::{Step, Workload},
    probe::{MigrationWindow, now_ns},
    results::{Request, Run, RunOutcome},
    rig::{self, AT_WORK, Client, FIRST_STEP, MIGRATION_TIMEOUT, Rig},
};

/// How long both sides may take to say that they are done once the guest runs.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Moves a guest once, with the network, the client and the limit that Ferry has in `rig`; returns the client's
/// requests. Into `run` goes what is known, also if not all of it could be measured.
///
/// # Errors
/// If the run did not come to its end; the reason belongs into its `error`.
pub fn measure(
    rig: &Rig<'_>,
    qemu: &Qemu,
    setting: Setting,
    step: &Step,
    memory: &mut WarmMemory,
    run: &mut Run,
) -> Result<Vec<Request>> {
    let before = Load::look();
    let mut sides = Sides::start(rig, qemu, setting, step, memory)?;
    sides.prepare(rig, setting)?;
    thread::sleep(AT_WORK);
    let client = rig.client_network().map(Client::start).transpose().context("start the client")?;
    if setting.is_post_copy() {
        memory.release_destination();
    }

    let began_tsc = tsc_now();
    let (times, ticks) = (CpuTimes::now(), sides.ticks());
    let began_at_us =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let began_ns = now_ns();
    sides.begin(setting)?;
    let mut progress = Progress::default();
    let handover = sides.follow(setting, &mut progress)?;
    let window =
        MigrationWindow { begin_ns: began_ns, switchover_end_ns: handover.seen_ns, end_ns: now_ns() };
    let during = times.until(CpuTimes::now(), sides.ticks().saturating_sub(ticks));
    let load = before.max(during);
    (run.host_overloaded, run.others_cpu_percent) = (load.is_overload(), load.others_percent);

    let answer = sides.source.qmp.execute("query-migrate", Value::Null);
    let answer = answer.map_err(|error| sides.source.explain(error)).context("ask QEMU how it went")?;
    figures::record(run, &answer);
    // Before the guest checks its memory, which takes it a while.
    let requests = client.map(|client| client.finish(&window, run)).unwrap_or_default();
    if let Some(outcome) = progress.ended {
        run.outcome = outcome;
        let words = answer["error-desc"].as_str().unwrap_or("it does not say why");
        bail!("QEMU's migration ended as {}: {words}", answer["status"].as_str().unwrap_or("failed"));
    }
    run.outcome = RunOutcome::Completed;
    run.total_us = progress.since_us(began_at_us);
    sides.ask_the_guest(began_tsc, &progress, handover, run)?;
    Ok(requests)
}

/// Source and destination. Both processes end when this is dropped.
struct Sides {
    source: Side,
    destination: Side,
}

/// What could be read when the guest had just started at the destination.
#[derive(Default)]
struct Handover {
    at_source: Option<Vec<Gap>>,
    first: Vec<Gap>,
    /// When it was heard that the guest runs there, by CLOCK_MONOTONIC.
    seen_ns: u64,
}

impl Sides {
    /// The source first: while its guest boots and fills memory, the destination's memory is still held warm.
    fn start(
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
    fn ticks(&self) -> u64 {
        self.source.process.ticks() + self.destination.process.ticks() + host::process_ticks(process::id())
    }

    /// Tells both how, has the destination listen, and the source know where.
    fn prepare(&mut self, rig: &Rig<'_>, setting: Setting) -> Result<()> {
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
    fn begin(&mut self, setting: Setting) -> Result<()> {
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

    /// Listens to both until it is over, and reads the guest's gaps as soon as it runs at the destination. Nothing is
    /// asked before, so that nothing of ours runs during the downtime.
    fn follow(&mut self, setting: Setting, progress: &mut Progress) -> Result<Handover> {
        let mut handover = Handover::default();
        let mut deadline = Instant::now() + MIGRATION_TIMEOUT;
        let (mut continued, mut handed_over) = (false, false);
        while !progress.is_done() && progress.ended.is_none() {
            interrupt::check()?;
            if Instant::now() > deadline {
                bail!("QEMU was not done within {} s: {progress:?}", MIGRATION_TIMEOUT.as_secs());
            }
            self.listen(progress)?;
            // QEMU forgets a `cont` that comes while the guest is still coming.
            if setting.pauses_first() && progress.arrived && !continued {
                let destination = &mut self.destination;
                destination.qmp.execute("cont", Value::Null).map_err(|error| destination.explain(error))?;
                continued = true;
            }
            if progress.resumed_at_us.is_some() && !handed_over {
                handover = self.read_handover(now_ns());
                handed_over = true;
            }
            if progress.completed_at_us.is_some() && handed_over {
                deadline = deadline.min(Instant::now() + LAST_WORDS);
            }
        }
        Ok(handover)
    }

    fn listen(&mut self, progress: &mut Progress) -> Result<()> {
        let Sides { source, destination } = self;
        let heard = wait_for_any([&mut source.qmp, &mut destination.qmp], Duration::from_millis(100));
        while let Some(event) = source.qmp.take_event() {
            progress.source_says(&event);
        }
        while let Some(event) = destination.qmp.take_event() {
            progress.destination_says(&event);
        }
        match heard {
            Ok(()) => Ok(()),
            Err((0, error)) => Err(source.explain(error)).context("the source is gone"),
            Err((_, error)) => Err(destination.explain(error)).context("the destination is gone"),
        }
    }

    fn read_handover(&self, seen_ns: u64) -> Handover {
        let look = |side: &Side| side.guest.look().ok().flatten().map(|guest| guest::gaps(&guest));
        let at_source = look(&self.source);
        let known = at_source.as_deref().unwrap_or_default();
        let mut first: Vec<Gap> = Vec::new();
        let (deadline, mut looks_left) = (Instant::now() + FIRST_STEP, 3);
        while looks_left > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
            first.extend(look(&self.destination).unwrap_or_default());
            looks_left -= u32::from(first.iter().any(|gap| !known.contains(gap)));
        }
        Handover { at_source, first, seen_ns }
    }

    /// What the guest saw of the move, and what it finds in its memory after it.
    fn ask_the_guest(
        &self,
        began_tsc: u64,
        progress: &Progress,
        handover: Handover,
        run: &mut Run,
    ) -> Result<()> {
        let view = &self.destination.guest;
        let guest = view.look()?.context("the guest says nothing at the destination")?;
        let Handover { at_source, first: mut gaps, .. } = handover;
        gaps.extend(guest::gaps(&guest));
        let stood_still_us = progress.stood_still_us();
        let window = Window { begin_tsc: began_tsc, end_tsc: tsc_now(), at_source, stood_still_us };
        run.record_guest(gaps::seen(&gaps, &window));
        let checked = view.check().context("have the guest check its memory")?;
        run.record_check(checked.errors());
        if checked.errors() > 0 {
            run.error = Some(complaint(&checked));
        }
        Ok(())
    }
}

/// The guest's findings after a move, in a sentence.
fn complaint(checked: &Snapshot) -> String {
    let named = guest::named_errors(checked);
    let first = named.first().map(String::as_str).unwrap_or_default();
    format!("the guest found {} errors after QEMU had moved it, such as: {first}", checked.errors())
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
fn socket_address(answer: &Value) -> Option<String> {
    let address = answer["socket-address"].as_array()?.first()?;
    let (host, port) = (address["host"].as_str()?, address["port"].as_str()?);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("tcp:{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        peer::{guest::GuestView, qmp::Qmp},
        rig::Process,
    };

    #[test]
    fn the_port_is_found_in_what_the_destination_says() {
        let answer = json!({"status": "setup", "socket-address": [
            {"port": "45123", "ipv4": true, "host": "127.0.0.1", "type": "inet"}]});
        assert_eq!(socket_address(&answer).as_deref(), Some("tcp:127.0.0.1:45123"));
        let answer = json!({"socket-address": [{"port": "9", "host": "fe80::1", "type": "inet"}]});
        assert_eq!(socket_address(&answer).as_deref(), Some("tcp:[fe80::1]:9"));
        assert_eq!(socket_address(&json!({})), None);
    }

    /// A side whose process says its last words and whose control socket is closed.
    fn dead(name: &str, words: &str, runtime: &Path) -> Side {
        let mut command = process::Command::new("sh");
        command.args(["-c", &format!("echo '{words}' >&2; exit 3")]);
        let process = Process::spawn(&format!("QEMU's {name}"), command, runtime, None).unwrap();
        // As long as it is not waited for, its state stays.
        let stat = format!("/proc/{}/stat", process.id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            thread::yield_now();
        }
        let guest = GuestView::open(process::id(), 4096, 1).unwrap();
        Side { process, qmp: Qmp::closed(), guest }
    }

    #[test]
    fn a_qemu_that_dies_midway_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut sides = Sides {
            source: dead("source", "qemu: Guest crashed", folder.path()),
            destination: dead("destination", "qemu: out of memory", folder.path()),
        };
        let error = format!("{:#}", sides.begin(Setting::PreCopy).unwrap_err());
        assert!(error.contains("qemu: out of memory"), "{error}");
        let error = sides.follow(Setting::PreCopy, &mut Progress::default()).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.starts_with("the source is gone") && error.contains("qemu: Guest crashed"), "{error}");
    }
}
