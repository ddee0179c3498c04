//! The `ferry` command.

mod ask;
mod background;
mod balloon;
mod bench;
mod boot;
mod bridges;
mod console;
mod devices;
mod doctor;
mod ending;
mod help;
#[cfg(feature = "kvm")]
mod linux;
mod migrate;
mod migrate_progress;
mod migrate_report;
mod output;
mod ps;
mod raw_terminal;
mod receive;
mod run;
mod terminal;
mod units;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use output::tell;

/// Moves running virtual machines between Linux hosts.
#[derive(Parser)]
#[command(name = "ferry", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ferry run pulse                               a guest that proves its own memory
  ferry receive tcp://127.0.0.1:7800            in a second terminal: waits for a VM
  ferry migrate pulse tcp://127.0.0.1:7800      in a third: moves it there while it runs
  ferry check pulse                             has the guest look at every page it has

`ferry doctor` says what this host can do.";

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Receive(receive::Receive),
    Migrate(migrate::Migrate),
    Ps(ps::Ps),
    Info(ask::Info),
    Pause(ask::Pause),
    Resume(ask::Resume),
    Stop(ask::Stop),
    Cancel(ask::Cancel),
    Check(ask::Check),
    Balloon(balloon::Balloon),
    Console(console::Console),
    Doctor(doctor::Doctor),
    Bench(bench::Bench),
    Completions(help::Completions),
    #[command(hide = true)]
    Man(help::Man),
}

/// The `ferry` command with this process's arguments.
pub fn main() -> ExitCode {
    run_from(std::env::args_os())
}

/// Whether such a command line, the first word of which is the program's name, is understood; nothing is done.
///
/// # Errors
/// What is wrong with it, as its user would see it.
pub fn understand<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> Result<(), String> {
    Arguments::try_parse_from(arguments).map(drop).map_err(|error| error.to_string())
}

/// The `ferry` command with arguments of the caller's choice, the first of which is the program's name: for another
/// program that runs itself as `ferry`.
pub fn run_from(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help that nobody can read any more is no failure.
            error.print().ok();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    log_to_stderr();
    let result = match parsed.command {
        Command::Run(run) => run.execute(&arguments),
        Command::Receive(receive) => receive.execute(&arguments),
        Command::Migrate(migrate) => migrate.execute(),
        Command::Info(info) => info.execute(),
        Command::Pause(pause) => pause.execute(),
        Command::Resume(resume) => resume.execute(),
        Command::Stop(stop) => stop.execute(),
        Command::Cancel(cancel) => cancel.execute(),
        Command::Check(check) => check.execute(),
        Command::Balloon(balloon) => balloon.execute(),
        Command::Console(console) => console.execute(),
        Command::Ps(ps) => ps.execute(),
        Command::Doctor(doctor) => doctor.execute(),
        Command::Bench(bench) => bench.execute(),
        Command::Completions(completions) => completions.execute(),
        Command::Man(man) => man.execute(),
    };
    result.unwrap_or_else(|error| {
        tell!("ferry: {error:#}");
        ExitCode::FAILURE
    })
}

/// `FERRY_LOG=debug` shows more. A program that runs itself as `ferry` may have a log of its own.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("FERRY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        // On a disk that is full they would be said by a macro that panics.
        .log_internal_errors(false)
        .try_init()
        .ok();
}

/// Runs what is asynchronous to its end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}
