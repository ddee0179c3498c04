//! `ferry migrate`

use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use hyper::Method;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    migrate_progress::{Display, TICK},
    output::{print, print_json, tell},
    units,
};
use crate::{
    api::client::{Client, ClientError, PROMPT},
    daemon::{MigrationRequest, MigrationState, Registry, Status},
};
use engine::{
    options::{self, Options},
    report::{Outcome, Report},
    strategy::Strategy,
    transport::Address,
};

/// Exit code: nobody here knows where the guest runs, or it is interrupted.
const IN_DOUBT: u8 = 3;
/// Exit code: it has moved, and its memory is not what it was.
const DIFFERENT: u8 = 4;
/// Exit code: it has moved, and the report could not be written.
const UNTOLD: u8 = 5;

/// Move a VM to where `ferry receive` waits for it
///
/// Ctrl-C cancels the migration. Exits with 0 when the VM has moved, 1 when it keeps running here, 3 when it is not known
/// where it runs, 4 when it has moved and its memory is not what it was, 5 when it has moved and the report could not be
/// written.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Migrate {
    /// The VM's name
    name: String,
    /// Where to: tcp://HOST:PORT, HOST (port 7800) or unix:///PATH
    address: Address,
    /// pre-copy, post-copy, hybrid or stop-and-copy
    #[arg(long, short, default_value = "pre-copy")]
    strategy: Strategy,
    /// The longest downtime that pre-copy may plan for
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = units::some_time)]
    downtime_limit: Duration,
    /// The most that page data may take of the link, in bits a second [default: all]
    #[arg(long, value_name = "RATE", value_parser = units::bandwidth)]
    max_bandwidth: Option<u64>,
    /// The most rounds of pre-copy
    #[arg(long, value_name = "N", default_value_t = Options::default().max_rounds, value_parser = units::rounds)]
    max_rounds: u32,
    /// How long all may take until the handover [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = units::some_time)]
    timeout: Option<Duration>,
    /// How long the other host may acknowledge nothing before it counts as gone
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = units::peer_timeout)]
    peer_timeout: Duration,
    /// Compare digests of all memory: before the guest runs on (adds to the downtime) or after
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "before-start")]
    verify: Option<Verify>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  ferry migrate pulse tcp://127.0.0.1:7800
  ferry migrate pulse tcp://127.0.0.1:7800 --strategy post-copy --verify
  ferry migrate db tcp://host:7800 --downtime-limit 5ms --max-bandwidth 1Gbit --timeout 60s";

#[derive(Clone, Copy, ValueEnum)]
enum Verify {
    BeforeStart,
    AfterStart,
}

impl Migrate {
    /// Moves it, and tells what that cost.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let client = Client::new(&Registry::open()?, &self.name);
        let watched = super::block_on(async {
            let _: MigrationState = client.post("/v1/migration", &self.request()).await?;
            Ok(watch(&client).await)
        })?;
        let report = match watched {
            Ok(Watched::Ended(report)) => report,
            Ok(Watched::Left) => {
                tell!("ferry: not waiting for the end: `ferry info {}` shows it", self.name);
                return Ok(ExitCode::from(IN_DOUBT));
            }
            Err(error) => {
                tell!(
                    "ferry: how the migration ended is not known, look whether the VM runs at the destination: {error:#}"
                );
                return Ok(ExitCode::from(IN_DOUBT));
            }
        };
        let mut code = conclude(&self.name, report.as_deref());
        let Some(report) = report else { return Ok(code) };
        if let Err(error) = self.print(&report) {
            // Nobody else has it by now: the source's process ends when its VM has moved.
            tell!("ferry: {error:#}; the report of this migration:");
            tell!("{}", serde_json::to_string(&report)?);
            if code == ExitCode::SUCCESS {
                code = ExitCode::from(UNTOLD);
            }
        }
        if report.outcome == Outcome::Completed {
            super::block_on(settle(&client))?;
        }
        Ok(code)
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            return print_json(report);
        }
        super::migrate_report::lines(report).iter().try_for_each(print)
    }

    fn request(&self) -> MigrationRequest {
        let micros = |duration: Duration| duration.as_micros() as u64;
        MigrationRequest {
            address: self.address.to_string(),
            strategy: self.strategy,
            downtime_limit_us: Some(micros(self.downtime_limit)),
            max_rounds: Some(self.max_rounds),
            max_bandwidth_bits_per_second: self.max_bandwidth,
            timeout_us: self.timeout.map(micros),
            peer_timeout_us: Some(micros(self.peer_timeout)),
            verify: match self.verify {
                None => options::Verify::No,
                Some(Verify::BeforeStart) => options::Verify::BeforeStart,
                Some(Verify::AfterStart) => options::Verify::AfterStart,
            },
        }
    }
}

/// How watching a migration ended.
enum Watched {
    /// With its report, unless the process ended without one.
    Ended(Option<Box<Report>>),
    /// The user did not want to wait for the end.
    Left,
}

/// Follows the migration to its end, and calls it off on Ctrl-C.
async fn watch(client: &Client) -> anyhow::Result<Watched> {
    let mut interrupts = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut display = Some(Display::new(std::io::stderr().is_terminal()));
    let mut is_cancelled = false;
    loop {
        tokio::select! {
            report = follow(client, &mut display) => return Ok(Watched::Ended(report?.map(Box::new))),
            _ = interrupts.recv() => {
                if is_cancelled {
                    return Ok(Watched::Left);
                }
                is_cancelled = true;
                match client.call::<MigrationState>(Method::DELETE, "/v1/migration", Some(PROMPT)).await {
                    Ok(_) => Display::say(display.as_ref(), "cancelling; Ctrl-C again does not wait for that"),
                    // It is over, or past the handover: the report says how it ends.
                    Err(ClientError::Refused(why)) => {
                        Display::say(display.as_ref(), &format!("{why}. Ctrl-C again does not wait for that"));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// Shows how far it is until it is over, and fetches the report.
async fn follow(client: &Client, display: &mut Option<Display>) -> Result<Option<Report>, ClientError> {
    while let Some(shown) = display {
        let state: MigrationState = match client.call(Method::GET, "/v1/migration", Some(PROMPT)).await {
            // Its host or its process is stopped for a while: nothing is decided by that.
            Err(silent @ ClientError::Silent { .. }) => {
                Display::say(Some(shown), &format!("{silent}; still waiting"));
                continue;
            }
            answer => answer?,
        };
        match (&state.progress, state.report.is_some()) {
            (Some(progress), false) => shown.show(progress),
            _ => *display = None,
        }
        // Asking takes CPU from the guest.
        tokio::time::sleep(TICK).await;
    }
    let state: MigrationState = client.call(Method::GET, "/v1/migration?wait=true", None).await?;
    Ok(state.report)
}

/// Waits a moment until the name is not the source's any more: where source and destination are on one host, the next
/// command is to find the VM where it is now.
async fn settle(client: &Client) -> anyhow::Result<()> {
    const GONE_WITHIN: Duration = Duration::from_secs(1);
    const BACK_WITHIN: Duration = Duration::from_millis(150);
    let mut deadline = Instant::now() + GONE_WITHIN;
    let mut is_gone = false;
    while Instant::now() < deadline {
        match client.call::<Status>(Method::GET, "/v1/vm", Some(GONE_WITHIN)).await {
            Ok(vm) if vm.status != "moved" => return Ok(()),
            Err(ClientError::NoSuchVm { .. }) if !is_gone => {
                is_gone = true;
                deadline = Instant::now() + BACK_WITHIN;
            }
            // The source still, or its end.
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Says how it ended, if not well, and what to exit with.
pub fn conclude(name: &str, report: Option<&Report>) -> ExitCode {
    let Some(report) = report else {
        tell!("ferry: the process of {name} ended before the migration did");
        return ExitCode::from(IN_DOUBT);
    };
    let why = report.error.as_deref().unwrap_or("no reason was given");
    let stays = if report.paused { "stays paused here" } else { "runs on here" };
    match report.outcome {
        Outcome::Completed if report.verified == Some(false) => {
            tell!("ferry: {name} has moved, but {why}");
            ExitCode::from(DIFFERENT)
        }
        Outcome::Completed => ExitCode::SUCCESS,
        Outcome::Failed => {
            tell!("ferry: {name} was not moved and {stays}: {why}");
            ExitCode::FAILURE
        }
        Outcome::Cancelled => {
            tell!("ferry: the migration was cancelled; {name} {stays}");
            ExitCode::FAILURE
        }
        Outcome::Unknown => {
            tell!(
                "ferry: it is not known whether {name} runs at the destination: {why}. Here it is paused and whole. Look \
                 there, with `ferry ps`: if it runs there, `ferry stop {name}` ends what is left of it here; if not, \
                 `ferry resume --force {name}` runs it here. Never let it run on both sides"
            );
            ExitCode::from(IN_DOUBT)
        }
        Outcome::Ended => {
            let code = report.guest_end.as_ref().map_or(0, |end| end.exit_code);
            tell!("ferry: {name} ended at the destination with code {code}: {why}");
            ExitCode::FAILURE
        }
        Outcome::Interrupted => {
            tell!(
                "ferry: {name} was started at the destination, and pages it needs are only here: {why}. Here it is paused; \
                 do not resume it unless the one there is stopped"
            );
            ExitCode::from(IN_DOUBT)
        }
    }
}
