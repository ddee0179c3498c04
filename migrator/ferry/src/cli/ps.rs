//! `ferry ps`

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use hyper::Method;
use tokio::task::JoinSet;

use super::{
    output::{print, print_json, tell},
    units::show_bytes,
};
use crate::{
    api::client::{Client, ClientError},
    daemon::{Registry, Status},
};

/// How long one VM's process may hold up the list.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked for names that are new.
const LOOKS: u32 = 3;

/// List the VMs of this user on this host
#[derive(Args)]
pub struct Ps {
    /// As JSON: an array of what `ferry info --json` calls `vm`
    #[arg(long)]
    json: bool,
}

impl Ps {
    /// Asks each of them.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let registry = Registry::open()?;
        let vms = super::block_on(all(&registry))?;
        if self.json {
            print_json(&vms)?;
        } else if vms.is_empty() {
            tell!("No VM runs here. `ferry run pulse` starts one.");
        } else {
            print(table(&vms))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks all of them at once. One that takes another name meanwhile is found by that.
async fn all(registry: &Registry) -> anyhow::Result<Vec<Status>> {
    let (mut asked, mut found) = (BTreeSet::new(), BTreeMap::new());
    for _ in 0..LOOKS {
        let new: Vec<String> =
            registry.names()?.into_iter().filter(|name| asked.insert(name.clone())).collect();
        if new.is_empty() {
            break;
        }
        let mut answers = JoinSet::new();
        for name in new {
            let client = Client::new(registry, &name);
            answers.spawn(async move {
                let answer = client.call::<Status>(Method::GET, "/v1/vm", Some(PATIENCE)).await;
                (name, answer)
            });
        }
        while let Some(answer) = answers.join_next().await {
            match answer? {
                (_, Ok(vm)) => drop(found.insert(vm.pid, vm)),
                (_, Err(ClientError::NoSuchVm { .. } | ClientError::Broken { .. })) => {}
                // Its user wants to know.
                (name, Err(error)) => {
                    let Some(pid) = registry.pid(&name) else { continue };
                    tell!("ferry: {:#}", anyhow::Error::from(error));
                    found.insert(pid, Status::silent(&name, pid));
                }
            }
        }
    }
    let mut vms: Vec<Status> = found.into_values().collect();
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(vms)
}

/// `receiving demo, 40 %`, or where it waits for one.
fn status(vm: &Status) -> String {
    match (&vm.receiving, &vm.listening) {
        (Some(coming), _) => format!("{} {}, {} %", vm.status, coming.name, coming.percent),
        (None, Some(address)) => format!("{} at {}", vm.status, address.trim_start_matches("tcp://")),
        (None, None) => vm.status.clone(),
    }
}

fn table(vms: &[Status]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "STATUS", "MEMORY", "VCPUS", "PID", "GUEST"]);
    for vm in vms {
        let came = !vm.kind.is_empty();
        let or_dash = |text: String| if came { text } else { "-".to_owned() };
        table.add_row([
            vm.name.clone(),
            status(vm),
            or_dash(show_bytes(vm.memory_bytes)),
            or_dash(vm.vcpus.to_string()),
            vm.pid.to_string(),
            vm.image.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    for column in [2, 3, 4] {
        table.column_mut(column).expect("six columns").set_cell_alignment(CellAlignment::Right);
    }
    table
}
