//! `ferry` as somebody at a host's shell uses it.

use std::{error::Error, time::Duration};

use engine::report::Report;
use testbed::{Host, Output};

/// What any command may take on an emulated processor, others using it as well.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// An error and what it comes from, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Runs a command that must succeed, and returns what it printed.
pub fn ok(host: &Host, command: &str) -> String {
    let output = any(host, command);
    assert_eq!(
        output.status,
        0,
        "{}$ {command}\n{}\n{}\nits console:\n{}",
        host.name(),
        output.text(),
        output.error_text(),
        host.console_log()
    );
    output.text()
}

/// Runs a command that may fail.
pub fn any(host: &Host, command: &str) -> Output {
    host.run(command, PATIENCE).unwrap_or_else(|error| panic!("{}", with_causes(&error)))
}

/// Moves a VM from one host to another.
pub fn moved(name: &str, from: &Host, to: &Host, strategy: &str) {
    moved_with(name, from, to, strategy, "");
}

/// Moves a VM to a host that has these devices for it. Returns the report.
pub fn moved_with(name: &str, from: &Host, to: &Host, strategy: &str, devices: &str) -> Report {
    ok(to, &format!("ferry receive tcp://0.0.0.0:7800 --once --detach {devices}"));
    let address = format!("tcp://{}:7800", to.name());
    // How long a guest stands still depends on who else uses this machine's processors.
    let options = format!("--strategy {strategy} --downtime-limit 10s --json");
    let report = ok(from, &format!("ferry migrate {name} {address} {options}"));
    serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"))
}
