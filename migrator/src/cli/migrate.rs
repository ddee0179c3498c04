//! `ferry migrate`

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, ValueEnum};
use hyper::Method;
use tokio::signal::unix::{SignalKind, signal};

use super::units;
use crate::{
    api::client::{Client, ClientError, PROMPT},
    daemon::{MigrationRequest, MigrationState, Registry},
    options::{self, Options},
    report::{Outcome, Report},
    strategy::Strategy,
    transport::Address,
};

/// Move a VM to where `ferry receive` waits for it
///
/// Ctrl-C calls the migration off. Exits with 0 when the VM has moved, 1 when it runs on here, 3 when it is not known
/// where it runs, 4 when it has moved and its memory is not what it was.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Migrate {
    /// The VM's name
    name: String,
    /// Where to: tcp://HOST:PORT or unix:///PATH
    address: Address,
    /// pre-copy, post-copy or stop-and-copy
    #[arg(long, short, default_value = "pre-copy")]
    strategy: Strategy,
    /// The longest downtime that pre-copy may plan for
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = units::duration)]
    downtime_limit: Duration,
    /// The most that page data may take of the link, in bits a second [default: all]
    #[arg(long, value_name = "RATE", value_parser = units::bandwidth)]
    max_bandwidth: Option<u64>,
    /// The most rounds of pre-copy
    #[arg(long, value_name = "N", default_value_t = Options::default().max_rounds)]
    max_rounds: u32,
    /// How long all may take until the handover [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
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
        let state = super::block_on(async {
            let _: MigrationState = client.post("/v1/migration", &self.request()).await?;
            watch(&client).await
        })?;
        let Some(state) = state else {
            eprintln!("ferry: not waiting for the end: `ferry info {}` shows it", self.name);
            return Ok(ExitCode::from(3));
        };
        if let Some(report) = state.report.as_ref().filter(|_| self.json) {
            println!("{}", serde_json::to_string_pretty(report)?);
        } else if let Some(report) = &state.report {
            super::migrate_report::print(report);
        }
        Ok(conclude(&self.name, state.report.as_ref()))
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
            verify: match self.verify {
                None => options::Verify::No,
                Some(Verify::BeforeStart) => options::Verify::BeforeStart,
                Some(Verify::AfterStart) => options::Verify::AfterStart,
            },
        }
    }
}

/// Follows the migration to its end. `None` if the user did not want to wait for it.
async fn watch(client: &Client) -> anyhow::Result<Option<MigrationState>> {
    let mut interrupts = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let display = std::io::stderr().is_terminal().then(super::migrate_progress::Display::new);
    let path = if display.is_some() { "/v1/migration" } else { "/v1/migration?wait=true" };
    let mut is_cancelled = false;
    loop {
        let patience = display.as_ref().map(|_| PROMPT);
        tokio::select! {
            state = client.call::<MigrationState>(Method::GET, path, patience) => {
                let state = lost_as_words(state)?;
                if state.report.is_some() || display.is_none() {
                    return Ok(Some(state));
                }
                if let (Some(display), Some(progress)) = (&display, &state.progress) {
                    display.show(progress);
                }
            }
            _ = interrupts.recv() => {
                if is_cancelled {
                    return Ok(None);
                }
                is_cancelled = true;
                eprintln!("ferry: calling it off; Ctrl-C again does not wait for that");
                match client.call::<MigrationState>(Method::DELETE, "/v1/migration", Some(PROMPT)).await {
                    // It is over already: the report says how.
                    Ok(_) | Err(ClientError::Refused(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if display.is_some() {
            // Asking takes CPU from the guest.
            tokio::time::sleep(super::migrate_progress::TICK).await;
        }
    }
}

fn lost_as_words(state: Result<MigrationState, ClientError>) -> anyhow::Result<MigrationState> {
    state.context("how the migration ended is not known: look whether the VM runs at the destination")
}

/// Says how it ended, if not well, and what to exit with.
pub fn conclude(name: &str, report: Option<&Report>) -> ExitCode {
    let Some(report) = report else {
        eprintln!("ferry: the process of {name} ended before the migration did");
        return ExitCode::from(3);
    };
    let why = report.error.as_deref().unwrap_or("no reason was given");
    match report.outcome {
        Outcome::Completed if report.verified == Some(false) => {
            eprintln!("ferry: {name} has moved, but {why}");
            ExitCode::from(4)
        }
        Outcome::Completed => ExitCode::SUCCESS,
        Outcome::Failed => {
            eprintln!("ferry: {name} was not moved and runs on here: {why}");
            ExitCode::FAILURE
        }
        Outcome::Cancelled => {
            eprintln!("ferry: the migration was called off; {name} runs on here");
            ExitCode::FAILURE
        }
        Outcome::Unknown => {
            eprintln!(
                "ferry: it is not known whether {name} runs at the destination: {why}. Here it is paused and whole. Look \
                 there; if it does not run there, `ferry resume --force {name}` runs it here"
            );
            ExitCode::from(3)
        }
        Outcome::Interrupted => {
            eprintln!(
                "ferry: {name} was started at the destination, and pages it needs are only here: {why}. Here it is paused; \
                 do not resume it unless the one there is stopped"
            );
            ExitCode::from(3)
        }
    }
}
