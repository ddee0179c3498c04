//! The commands that ask a VM's process for one thing.

use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;

use super::{
    block_on,
    output::{print, print_json, tell},
    units,
};
use crate::{
    api::client::{CHECK, Client, PROMPT},
    daemon::{MigrationState, Registry, Status},
    machine::{CheckReport, GuestReport},
};
use engine::{progress::Phase, report::Outcome};

fn ask<T: DeserializeOwned>(name: &str, method: Method, path: &str) -> anyhow::Result<T> {
    let client = Client::new(&Registry::open()?, name);
    block_on(async {
        Ok(client.call(method, path, Some(if path.ends_with("check") { CHECK } else { PROMPT })).await?)
    })
}

/// Show what is known of a VM
#[derive(Args)]
pub struct Info {
    /// The VM's name
    name: String,
    /// As JSON: the VM, what its guest says, and its last migration
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Asks and prints.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let vm: Status = ask(&self.name, Method::GET, "/v1/vm")?;
        // A guest may be out of reach when its VM is not: in a migration that was interrupted, say.
        let guest = ask(&self.name, Method::GET, "/v1/vm/guest");
        let guest: GuestReport = guest.unwrap_or_else(|error| {
            tell!("ferry: {error:#}");
            GuestReport::default()
        });
        let migration: MigrationState = ask(&self.name, Method::GET, "/v1/migration")?;
        if self.json {
            let all = serde_json::json!({ "vm": vm, "guest": guest, "migration": migration });
            print_json(&all)?;
            return Ok(ExitCode::SUCCESS);
        }
        let machine = machine(&vm);
        let [is_paused, is_moved, is_migrating] =
            ["paused", "moved", "migrating"].map(|status| vm.status == status);
        let mut lines = vec![
            ("name", vm.name),
            ("status", vm.status),
            ("machine", machine),
            ("process", format!("{}, since {}", vm.pid, vm.started_at)),
        ];
        lines.extend(
            vm.receiving
                .map(|coming| ("arriving", format!("{}, {} % of its memory", coming.name, coming.percent))),
        );
        lines.extend(vm.image.map(|image| ("image", image)));
        lines.extend(vm.command_line.map(|line| ("command line", line)));
        lines.extend(vm.listening.map(|address| ("listening on", address)));
        lines.extend(
            vm.overhead_bytes
                .map(|bytes| ("overhead", format!("{} beside guest memory", units::show_bytes(bytes)))),
        );
        let runs_there =
            migration.progress.as_ref().is_some_and(|now| matches!(now.phase, Phase::Push | Phase::Verify));
        let has_left = is_moved || is_migrating && runs_there;
        if guest.available && !has_left {
            let phase = if is_paused { "paused".to_owned() } else { guest.phase.unwrap_or_default() };
            let wrote = units::show_count(guest.pages_written);
            lines.push(("guest", format!("{phase}, {wrote} pages written, {} errors found", guest.errors)));
            lines.push(("longest gap", units::show_micros(guest.longest_gap_us)));
        }
        if let Some(report) = migration.report {
            let outcome = format!("{:?} by {}", report.outcome, report.strategy).to_lowercase();
            let why = report.error.map(|why| format!(": {why}")).unwrap_or_default();
            lines.push(("migration", format!("the last was {outcome}{why}")));
        } else if let Some(now) = migration.progress {
            let left = units::show_count(now.pages_left);
            let where_it_is = if runs_there {
                "it runs at the destination".to_owned()
            } else {
                format!("round {}", now.round)
            };
            lines.push(("migration", format!("{where_it_is}, {left} pages left")));
        }
        for (what, value) in lines {
            print(format_args!("{what:<13} {value}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn machine(vm: &Status) -> String {
    if vm.kind.is_empty() {
        return "none yet".to_owned();
    }
    let plural = if vm.vcpus == 1 { "" } else { "s" };
    format!("{}, {} vCPU{plural}, {}", vm.kind, vm.vcpus, units::show_bytes(vm.memory_bytes))
}

/// Stand a guest still
#[derive(Args)]
pub struct Pause {
    /// The VM's name
    name: String,
}

impl Pause {
    /// Asks.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let vm: Status = ask(&self.name, Method::PUT, "/v1/vm/pause")?;
        print(format_args!("{} is {}", vm.name, vm.status))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Let a paused guest run on
#[derive(Args)]
pub struct Resume {
    /// The VM's name
    name: String,
    /// Also after a migration that broke off where nobody here knows whether the guest runs at the destination
    #[arg(long)]
    force: bool,
}

impl Resume {
    /// Asks.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let path = if self.force { "/v1/vm/resume?force=true" } else { "/v1/vm/resume" };
        let vm: Status = ask(&self.name, Method::PUT, path)?;
        print(format_args!("{} is {}", vm.name, vm.status))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// End a guest and its process
#[derive(Args)]
pub struct Stop {
    /// The VM's name
    name: String,
    /// Also while a guest that was moved away needs pages that are only here: it loses them
    #[arg(long)]
    force: bool,
}

impl Stop {
    /// Asks.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let path = if self.force { "/v1/vm/stop?force=true" } else { "/v1/vm/stop" };
        let vm: Status = ask(&self.name, Method::PUT, path)?;
        print(format_args!("{} {}", vm.name, vm.status))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Cancel a migration; the guest keeps running here
#[derive(Args)]
pub struct Cancel {
    /// The VM's name
    name: String,
}

impl Cancel {
    /// Asks, and waits for how it ends.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let _: MigrationState = ask(&self.name, Method::DELETE, "/v1/migration")?;
        let state: MigrationState = ask(&self.name, Method::GET, "/v1/migration?wait=true")?;
        match state.report {
            Some(report) if report.outcome == Outcome::Cancelled => {
                let stays = if report.paused { "stays paused here" } else { "runs on here" };
                print(format_args!("cancelled; {} {stays}", self.name))?;
                Ok(ExitCode::SUCCESS)
            }
            Some(report) if report.outcome == Outcome::Completed => {
                anyhow::bail!("too late: {} has moved", self.name)
            }
            report => Ok(super::migrate::conclude(&self.name, report.as_ref())),
        }
    }
}

/// Have a guest check all of its memory
///
/// Fails if the guest ever found a page that does not hold what it should.
#[derive(Args)]
pub struct Check {
    /// The VM's name
    name: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Asks and waits.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let found: CheckReport = ask(&self.name, Method::POST, "/v1/vm/guest/check")?;
        if self.json {
            print_json(&found)?;
        } else {
            let pages = units::show_count(found.pages_checked);
            print(format_args!("{pages} pages checked, {} errors", found.errors))?;
            found.named_errors.iter().try_for_each(|error| print(format_args!("  {error}")))?;
        }
        Ok(if found.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
