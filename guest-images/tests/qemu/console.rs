//! What a user at the console sees.

use telemetry::{Phase, TELEMETRY_ADDRESS};

use crate::machine::Machine;
use crate::{MIB, line};

#[test]
fn the_console_answers() {
    let Some(mut machine) = Machine::start(32 * MIB, &line(1)) else {
        return;
    };
    machine.wait_for_line("pulse: ready after");
    machine.type_line("nonsense");
    machine.wait_for_line("commands: check, status, stop");
    machine.type_line("check");
    machine.wait_for_line(" 0 errors, ");
    machine.type_line("status");
    machine.wait_for_line("pages written");
    machine.type_line("stop 7");
    assert_eq!(machine.wait_for_exit(), 7);
}

#[test]
fn a_bad_command_line_ends_the_guest_with_a_reason() {
    let Some(mut machine) = Machine::start_with("pulse fill=ones", 32 * MIB) else {
        return;
    };
    machine.wait_for_line("pulse: failed: command line: `fill=ones`: expected zeros, random or text");
    assert_eq!(machine.wait_for_exit(), 101);
}

#[test]
fn a_missing_vcpu_ends_the_guest_with_a_reason() {
    let Some(mut machine) = Machine::start_with("pulse vcpus=2", 32 * MIB) else {
        return;
    };
    machine.wait_for_line("pulse: failed: vCPU 1 does not start");
    let bytes = machine.read(TELEMETRY_ADDRESS, telemetry::TELEMETRY_BYTES);
    assert_eq!(telemetry::Snapshot::parse(&bytes).unwrap().phase, Phase::Failed);
    assert_eq!(machine.wait_for_exit(), 101);
}
