//! Scenarios: what to do in which host, line by line.
//!
//! ```text
//! # a comment
//! host-1: ferry run pulse --detach       run it, and stop here if it fails
//! host-2&: ferry receive tcp://0:7800    start it and go on
//! link: delay=20ms rate=100mbit loss=1%
//! cut: host-1 host-2
//! mend: host-1 host-2
//! kill: host-2
//! ```

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use testbed::{Bed, Host, Link, Output};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(300);

/// One line.
pub enum Step {
    /// Run it and wait.
    Run { host: String, command: String },
    /// Start it.
    Start { host: String, command: String },
    /// Make the links so.
    Link(Link),
    /// Cut, or mend, the link of two hosts.
    Cut { hosts: [String; 2], is_cut: bool },
    /// Take a host's power.
    Kill(String),
}

/// The steps of a scenario's text.
pub fn parse(text: &str) -> anyhow::Result<Vec<Step>> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| step(line).with_context(|| format!("line {number}, {line:?}"))).collect()
}

fn step(line: &str) -> anyhow::Result<Step> {
    let (who, what) = line.split_once(':').context("write HOST: COMMAND")?;
    let (who, what) = (who.trim(), what.trim().to_owned());
    Ok(match who {
        "link" => Step::Link(what.parse()?),
        "cut" | "mend" => {
            let hosts: Vec<String> = what.split_whitespace().map(ToOwned::to_owned).collect();
            let hosts = hosts.try_into().map_err(|_| anyhow::anyhow!("name two hosts"))?;
            Step::Cut { hosts, is_cut: who == "cut" }
        }
        "kill" => Step::Kill(what),
        _ => match who.strip_suffix('&') {
            Some(host) => Step::Start { host: host.trim().to_owned(), command: what },
            None => Step::Run { host: who.to_owned(), command: what },
        },
    })
}

/// Does it all, and prints what the commands print. The code of the first command that fails, which is the last that
/// runs.
pub fn run(bed: &Bed, steps: &[Step]) -> anyhow::Result<ExitCode> {
    let mut started = Vec::new();
    for step in steps {
        match step {
            Step::Run { host, command } => {
                println!("{host}$ {command}");
                let output = bed.hosts()[find(bed, host)?].run(command, LIMIT)?;
                show(host, &output);
                if output.status != 0 {
                    println!("{host}: ended with {}", output.status);
                    return Ok(ExitCode::from(u8::try_from(output.status).unwrap_or(1)));
                }
            }
            Step::Start { host, command } => {
                println!("{host}$ {command} &");
                started.push(bed.hosts()[find(bed, host)?].start(command)?);
            }
            Step::Link(link) => {
                println!("link: {link}");
                bed.link(link)?;
            }
            Step::Cut { hosts: [one, other], is_cut } => {
                let (one, other) = (find(bed, one)?, find(bed, other)?);
                if *is_cut { bed.cut(one, other) } else { bed.mend(one, other) }
            }
            Step::Kill(host) => bed.hosts()[find(bed, host)?].kill(),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(bed: &Bed, name: &str) -> anyhow::Result<usize> {
    let names: Vec<&str> = bed.hosts().iter().map(Host::name).collect();
    match names.iter().position(|host| *host == name) {
        Some(index) => Ok(index),
        None => bail!("there is no host {name:?}: there are {}", names.join(", ")),
    }
}

fn show(host: &str, output: &Output) {
    for line in output.text().lines().chain(output.error_text().lines()) {
        println!("{host}  {line}");
    }
}
