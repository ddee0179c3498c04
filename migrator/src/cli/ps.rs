//! `ferry ps`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use hyper::Method;

use super::{
    output::{print, print_json, tell},
    units::show_bytes,
};
use crate::{
    api::client::Client,
    daemon::{Registry, Status},
};

/// How long one VM's process may hold up the list.
const PATIENCE: Duration = Duration::from_secs(2);

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
        let vms = super::block_on(async {
            let mut vms = Vec::new();
            for name in registry.names()? {
                let client = Client::new(&registry, &name);
                match client.call::<Status>(Method::GET, "/v1/vm", Some(PATIENCE)).await {
                    Ok(vm) => vms.push(vm),
                    // It may just have ended; if not, its user wants to know.
                    Err(error) => tell!("ferry: {:#}", anyhow::Error::from(error)),
                }
            }
            Ok(vms)
        })?;
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

fn table(vms: &[Status]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "STATUS", "MEMORY", "VCPUS", "MACHINE", "PID", "GUEST"]);
    for vm in vms {
        let came = !vm.kind.is_empty();
        let or_dash = |text: String| if came { text } else { "-".to_owned() };
        table.add_row([
            vm.name.clone(),
            vm.listening.as_ref().map_or(vm.status.clone(), |address| format!("{} at {address}", vm.status)),
            or_dash(show_bytes(vm.memory_bytes)),
            or_dash(vm.vcpus.to_string()),
            or_dash(vm.kind.clone()),
            vm.pid.to_string(),
            vm.image.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    for column in [2, 3, 5] {
        table.column_mut(column).expect("seven columns").set_cell_alignment(CellAlignment::Right);
    }
    table
}
